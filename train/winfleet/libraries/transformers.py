"""Hugging Face's Trainer, from which TRL's are derived: its steps and losses, its own checkpoint for a stop, and going on from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.libraries.resume import Resume, refused
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper, is_taken

STATE: Final = "trainer_state.json"  # without which train() cannot go on
ARGUMENTS: Final = ("resume_from_checkpoint", "trial", "ignore_keys_for_eval")  # of train()


def hook(module: Any, meter: Meter, stopper: Stopper, resume: Resume) -> None:
    """Once the script imports the Trainer."""
    trainer_class = module.Trainer
    train = trainer_class.train
    callback_class = make_callback(module.TrainerCallback)

    def watched_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs |= zip(ARGUMENTS, args, strict=False)
        meter.values["anew"] = kwargs.get(ARGUMENTS[0]) is False
        kwargs[ARGUMENTS[0]] = choose(kwargs.get(ARGUMENTS[0]), self, resume, kwargs.get("trial"))
        if not any(isinstance(one, callback_class) for one in self.callback_handler.callbacks):
            self.add_callback(callback_class(Watch(self, meter, stopper)))
        before, meter.shares = meter.shares, True
        try:
            with stopper.leading():
                return train(self, **kwargs)
        finally:
            meter.shares = before

    trainer_class.train = watched_train


def choose(given: Any, trainer: Any, resume: Resume, trial: Any) -> Any:
    """What train() is to go on from: what the script gives, and where that is None this run's newest checkpoint in its folder."""
    found = resume.within(Path(trainer.args.output_dir)) if trainer.args.output_dir else None
    if found is None or trial is not None or not (found / STATE).is_file():
        return given
    if given is False:
        refused(resume, found)
    if given is not None:
        return given
    taken = resume.take(found, f"{type(trainer).__name__}.train({ARGUMENTS[0]}=...)")
    return None if taken is None else str(taken)


class Watch:
    """Tells the meter of Trainer's own steps and losses, and stops with Trainer's own checkpoint."""

    def __init__(self, trainer: Any, meter: Meter, stopper: Stopper) -> None:
        self.trainer, self.meter, self.stopper = trainer, meter, stopper
        self._before = 0  # steps that earlier trainings of this process have done
        self._leaves = False

    def begin(self, state: Any) -> None:
        """A training begins; steps of a second one come behind those of the first."""
        self._before = self.meter.values["step"] if self.meter.count else 0
        self.meter.saved = self.meter.saved or state.global_step > 0
        self.tell(state)

    def tell(self, state: Any) -> None:
        """Trainer's own step, and its last one."""
        end = self._before + state.max_steps if state.max_steps and state.max_steps > 0 else None
        self.meter.goes_on(self._before + state.global_step, end)

    def step(self, state: Any, control: Any) -> None:
        """Between two steps, where Trainer saves as well: a stop may be due."""
        self.tell(state)
        if not self._leaves and self.stopper.is_due():
            self._leaves = self.stopper.save_for_stop(lambda: self._ask(state, control))

    def _ask(self, state: Any, control: Any) -> bool:
        """Has Trainer save at once, where it saves anyhow or the name is free."""
        args = self.trainer.args
        if not control.should_save and is_taken(Path(args.output_dir, f"checkpoint-{state.global_step}")):
            return False
        # Nothing is rotated away for a stop, and what it saves is enough to go on from. The process ends behind it.
        for name, value in (("save_total_limit", None), ("save_only_model", False)):
            if hasattr(args, name):
                object.__setattr__(args, name, value)
        control.should_save, control.should_evaluate = True, False
        return True

    def saved(self) -> None:
        """Trainer has saved on all ranks."""
        self.meter.saved = True
        if self._leaves:
            self.stopper.leave()

    def logged(self, logs: Mapping[str, Any]) -> None:
        """What Trainer logs is the mean of all ranks; at its end it logs that of the whole training, under another name."""
        self.meter.logged(logs, losses=("loss",))


def make_callback(base: Any) -> Any:
    """The callback's class; its base is there only once transformers is."""

    class Watcher(base):  # type: ignore[misc]
        """Passes on what Trainer calls."""

        def __init__(self, watch: Watch) -> None:
            self.watch = watch

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            self.watch.begin(state)

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            self.watch.step(state, control)

        def on_save(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            self.watch.saved()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            self.watch.logged(logs or {})

    return Watcher
