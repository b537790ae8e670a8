"""The shapes of Accelerate's public examples in one script: cv_example, complete_nlp_example, by_feature/memory.

A training_function(config, args), Accelerator(cpu=…, mixed_precision=…, log_with=…), main_process_first, a scheduler,
gather_for_metrics, save_state an epoch, and find_executable_batch_size around an inner loop.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size, set_seed


def get_dataloaders(accelerator: Accelerator, batch_size: int) -> tuple[torch.utils.data.DataLoader, ...]:  # type: ignore[type-arg]
    with accelerator.main_process_first():
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(203, 4, generator=generator)  # a last batch that is not full
    train = torch.utils.data.TensorDataset(points[:160], (points[:160].sum(1) > 2).long())
    evaluation = torch.utils.data.TensorDataset(points[160:], (points[160:].sum(1) > 2).long())
    return (
        torch.utils.data.DataLoader(train, shuffle=True, batch_size=batch_size, drop_last=True),
        torch.utils.data.DataLoader(evaluation, shuffle=False, batch_size=16),
    )


def training_function(config: dict[str, float], args: argparse.Namespace) -> None:
    accelerator = Accelerator(cpu=args.cpu, mixed_precision=args.mixed_precision, gradient_accumulation_steps=2)

    @find_executable_batch_size(starting_batch_size=int(config["batch_size"]))
    def inner_training_loop(batch_size: int) -> None:
        accelerator.free_memory()
        set_seed(int(config["seed"]))
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
        train, evaluation = get_dataloaders(accelerator, batch_size)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config["lr"], total_steps=400)
        model, optimizer, train, evaluation, scheduler = accelerator.prepare(
            model, optimizer, train, evaluation, scheduler
        )
        for epoch in range(int(config["num_epochs"])):
            model.train()
            for inputs, targets in train:
                with accelerator.accumulate(model):
                    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
                    accelerator.backward(loss)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            model.eval()
            right = total = 0
            for inputs, targets in evaluation:
                with torch.no_grad():
                    predictions = model(inputs).argmax(dim=-1)
                predictions, references = accelerator.gather_for_metrics((predictions, targets))
                right, total = right + int((predictions == references).sum()), total + len(references)
            accelerator.print(f"epoch {epoch}: {total} evaluated, more than half right: {right > total / 2}")
            accelerator.save_state(f"epoch_{epoch}")

    inner_training_loop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixed_precision", default=None, choices=["no", "fp16", "bf16", "fp8"])
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    training_function({"lr": 2e-2, "num_epochs": 2, "seed": 42, "batch_size": 16}, args)


if __name__ == "__main__":
    main()
