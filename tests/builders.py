"""Hosts of a plan."""

from typing import Any

from winfleet.core.plan import Host, lay_out_hosts


def pcs(*processes: int, network: str = "10.0.0", **values: Any) -> tuple[Host, ...]:
    """pc1, pc2 … with so many processes each, at .1, .2 … of the network."""
    return lay_out_hosts(
        {"name": f"pc{number}", "address": f"{network}.{number}", "processes": count, **values}
        for number, count in enumerate(processes, 1)
    )
