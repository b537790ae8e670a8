"""Lightning, by both of its names: its steps and losses, its own checkpoint for a stop, and going on from one."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from winfleet.libraries.resume import Resume, read_plan, refused
from winfleet.rank.meter import Meter
from winfleet.rank.stopper import Stopper, agree, is_taken

SUFFIX: Final = ".ckpt"
ARGUMENTS: Final = (
    "model",
    "train_dataloaders",
    "val_dataloaders",
    "datamodule",
    "ckpt_path",
    "weights_only",
)  # of fit()


class DevicesError(RuntimeError):
    """A Trainer whose processes are not those of the run; the text has the right values."""


def hook(module: Any, meter: Meter, stopper: Stopper, resume: Resume) -> None:
    """Once the script imports a Trainer of `lightning` or `pytorch_lightning`."""
    trainer_class = module.Trainer
    callback_class = make_callback(sys.modules[f"{module.__name__.partition('.trainer')[0]}.callbacks"].Callback)
    made, fit = trainer_class.__init__, trainer_class.fit

    def watched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if os.environ.get("WINFLEET_TRIAL"):  # of one process, for a command that is made for all
            kwargs = {**kwargs, **{name: 1 for name in ("devices", "num_nodes") if name in kwargs}}
        made(self, *args, **kwargs)

    def watched_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_devices(self.num_devices, self.num_nodes)
        kwargs |= zip(ARGUMENTS, args, strict=False)
        given = kwargs.get("ckpt_path")
        meter.values["anew"] = given is False
        kwargs["ckpt_path"] = choose(given, self, resume)
        watcher = next((one for one in self.callbacks if isinstance(one, callback_class)), None)
        if watcher is None:
            watcher = callback_class(meter, stopper)
            self.callbacks.append(watcher)  # behind those that save
            watch_logs(self, meter)
        watcher.rewinds = kwargs["ckpt_path"] != given
        with stopper.leading():
            return fit(self, **kwargs)

    trainer_class.__init__ = watched_init
    trainer_class.fit = watched_fit


def check_devices(devices: int, nodes: int) -> None:
    """Raises DevicesError where a Trainer's devices and num_nodes do not make the run's processes."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    plan = read_plan()
    counts = {host.name: host.processes for host in plan.hosts} if plan is not None else {}
    if world > 1 and len(set(counts.values())) > 1:
        named = ", ".join(f"{count} on {name}" for name, count in counts.items())
        raise DevicesError(
            f"Lightning needs as many processes on each PC as on the others, and this run has {named}\n"
            f"hint: set fleet_processes: {min(counts.values())} for all, or leave PCs out"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "WORLD_SIZE" in os.environ and devices * nodes != world:
        raise DevicesError(
            f"Trainer(devices={devices}, num_nodes={nodes}) makes {devices * nodes} of the run's {world} processes\n"
            f"hint: Trainer(devices={local}, num_nodes={world // local})"
        )


def folders(trainer: Any) -> tuple[list[Path], list[Path]]:
    """Where the script keeps checkpoints: folders of its own choice, and those below which each start has a new one."""
    chosen = [Path(one.dirpath) for one in trainer.checkpoint_callbacks if getattr(one, "dirpath", None)]
    if trainer.loggers:
        logger = trainer.loggers[0]
        place = Path(logger.save_dir or trainer.default_root_dir, str(logger.name))
    else:
        place = Path(trainer.default_root_dir, "checkpoints")
    return chosen, [place]


def choose(given: Any, trainer: Any, resume: Resume) -> Any:
    """What fit() is to go on from: what the script gives, and where that is None this run's newest checkpoint in its folder."""
    chosen, below = folders(trainer)
    found = [path for folder in chosen if (path := resume.within(folder))]
    found += [path for folder in below if not chosen and (path := resume.within(folder, deep=True))]
    newest = next((path for path in found if path.suffix == SUFFIX), None)
    if given is False:
        refused(resume, newest)
        return None
    if given is not None or newest is None:
        return given
    taken = resume.take(newest, "Trainer.fit(ckpt_path=...)")
    return None if taken is None else str(taken)


def watch_logs(trainer: Any, meter: Meter) -> None:
    """Has the meter know what the script logs, as often as it goes to loggers."""
    connector = trainer._logger_connector
    log_metrics = connector.log_metrics

    def watched_log(metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):  # a note must never end a training
            meter.logged(metrics)
        log_metrics(metrics, *args, **kwargs)

    connector.log_metrics = watched_log


def make_callback(base: Any) -> Any:
    """The callback's class; its base is there only once Lightning is."""

    class Watcher(base):  # type: ignore[misc]
        """Tells the meter of Lightning's own steps, and stops with Lightning's own checkpoint."""

        def __init__(self, meter: Meter, stopper: Stopper) -> None:
            self.meter, self.stopper = meter, stopper
            self.rewinds = False  # whether data are to be drawn up to the checkpoint's place in its epoch
            self._before = 0  # steps that earlier trainings of this process have done

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Steps of a second training come behind those of the first."""
            del pl_module
            self._before = self.meter.values["step"] if self.meter.count else 0
            self.meter.saved = self.meter.saved or trainer.global_step > 0
            self._tell(trainer)
            if self.rewinds:
                with contextlib.suppress(Exception):  # Lightning goes on as it does by itself
                    rewind(trainer.fit_loop)

        def _tell(self, trainer: Any) -> None:
            end = math.inf
            with contextlib.suppress(Exception):  # it is not known of all kinds of data
                end = trainer.estimated_stepping_batches
            self.meter.goes_on(
                self._before + trainer.global_step, self._before + int(end) if 0 < end < math.inf else None
            )

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            """A stop is due between two steps, where ModelCheckpoint saves as well."""
            del pl_module
            self._tell(trainer)
            if self.meter.between_steps() and self.stopper.is_due():
                self.stopper.save_for_stop(lambda: save(trainer))
                self.stopper.leave()

        def on_save_checkpoint(self, *_: Any) -> None:
            """Called for each checkpoint, the script's too."""
            self.meter.saved = True

    return Watcher


def save(trainer: Any) -> bool:
    """The checkpoint of a stop, beside the script's own, on all ranks, unless the script has just saved this step."""
    step, callbacks = trainer.global_step, trainer.checkpoint_callbacks
    for one in callbacks:
        last = getattr(one, "_last_checkpoint_saved", "")
        if (
            last
            and getattr(one, "_last_global_step_saved", None) == step
            and not getattr(one, "save_weights_only", True)
        ):
            return True
    folder = next((Path(one.dirpath) for one in callbacks if getattr(one, "dirpath", None)), None)
    if folder is None:
        place = Path(trainer.log_dir) if trainer.loggers and trainer.log_dir else Path(trainer.default_root_dir)
        folder = place / "checkpoints"
    stem, version = agree(str(folder / f"epoch={trainer.current_epoch}-step={step}")), 0
    while is_taken(path := Path(f"{stem}{f'-v{version}' if version else ''}{SUFFIX}")):
        version += 1
    trainer.save_checkpoint(str(path))
    return True


def rewind(loop: Any) -> None:
    """Draws the batches that were trained on before the checkpoint, as Lightning begins the epoch's data anew.

    Not where a DataLoader keeps its own place.
    """
    done, loader, fetcher = loop.epoch_loop.batch_progress.current.processed, loop._combined_loader, loop._data_fetcher
    if not done or done >= loop.max_batches or any(hasattr(one, "load_state_dict") for one in loader.flattened):
        return
    for one in loader.flattened:
        for sampler in (getattr(one, "sampler", None), getattr(getattr(one, "batch_sampler", None), "sampler", None)):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(loop.epoch_progress.current.processed)
    iter(fetcher)
    for _ in range(done):
        next(fetcher)
    fetcher.fetched = 0
