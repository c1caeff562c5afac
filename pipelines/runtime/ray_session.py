"""The Ray session of a run: the cluster named by `RAY_ADDRESS`, one that is already joined, or a local one."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.errors import UserError

#: How often Ray runs a unit again whose worker died.
RETRIES = 3
#: Pixels never enter the object store; markers are small.
OBJECT_STORE_BYTES = 128 << 20
CONNECT_SECONDS = 15
#: Seconds that the head of a cluster may be away, for a restart say; Ray's own patience is 60.
HEAD_PATIENCE = 30.0


@contextmanager
def session(workers: int | None, cpus_per_worker: int, threads: int) -> Iterator[None]:
    """Ray for the time of the block. A local one has room for `workers` (None: as many as there are cores)."""
    _settle_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    with _own_sigterm():
        if address := os.environ.get("RAY_ADDRESS"):
            _require_reachable(address)
            ray.init(runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
        else:
            start_local(workers and workers * cpus_per_worker, environment)
    try:
        yield
    finally:
        ray.shutdown()


def start_local(cpus: int | None, environment: Mapping[str, Any]) -> None:
    """Start a Ray on this machine that ends with this process, with `cpus` to give (None: as many as there are cores)."""
    _settle_environment()
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env=dict(environment),
    )


def _settle_environment() -> None:
    """What Ray takes from the environment when it is imported or started; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's default is to run a unit for ever that is killed for lack of memory.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))


class Head:
    """The cluster's head, asked now and then: when it is gone for a minute Ray ends the driver without a word."""

    def __init__(self) -> None:
        import ray

        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self._address = (host.strip("[]"), int(port)) if port.isdigit() else None
        self._seen = time.monotonic()

    def lost(self) -> bool:
        """Whether nobody has answered at its address for `HEAD_PATIENCE` seconds."""
        if self._address is None:
            return False
        try:
            socket.create_connection(self._address, timeout=CONNECT_SECONDS).close()
            self._seen = time.monotonic()
        except OSError:
            return time.monotonic() - self._seen > HEAD_PATIENCE
        return False


def _require_reachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"no Ray cluster at {address} ({reason}); unset RAY_ADDRESS to run on this machine") from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts in a SIGTERM handler that exits at once; ours lets the run leave a tidy folder, so it is put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
