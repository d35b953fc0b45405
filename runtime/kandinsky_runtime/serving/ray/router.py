"""Which replica gets a request: the one that has the job, if the request is about a job.

Runs in Serve's proxies, and in replicas for their calls of each other.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from kandinsky_runtime.serving.jobs import replica_of

_JOBS = "/v1/jobs/"
_KEY = b"idempotency-key"
_CANDIDATES = 8  # an idle replica is worth as many small messages


class JobRouter(RequestRouter):  # type: ignore[misc] # not a dependency of the type check
    """Sends what is about a job to the replica that has it, and all else to the shortest queue of a few replicas.

    Requests with one idempotency key go to one replica, as long as the replicas stay the same. Other than Ray's own
    router, it prefers no replica of the proxy's node: a picture takes seconds to minutes, and a hop does not.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Sequence[Sequence[RunningReplica]]:
        """The replicas to try next; see Ray's `RequestRouter`."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # let a request that finds no room wait a little
            names = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
            chosen = chosen_replica(pending_request, list(names))
            if chosen is not None:
                return [[names[chosen]]]
        return [random.sample(candidate_replicas, min(_CANDIDATES, len(candidate_replicas)))]


def chosen_replica(request: PendingRequest, replicas: Sequence[str]) -> str | None:
    """The name of the only replica that can answer a request; None if each of them can.

    A job whose replica is gone is unknown to each of them.
    """
    if not request.metadata.is_http_request:
        owner = replica_of(str(request.args[0])) if request.args else ""
        return owner if owner in replicas else None
    scope = _scope(request.args[0])
    if scope is None:
        return None
    _, found, job = scope["path"].partition(_JOBS)
    if found and (owner := replica_of(job)) in replicas:
        return owner
    key = dict(scope["headers"]).get(_KEY)
    if key is None or not replicas:
        return None
    return max(replicas, key=lambda name: sha256(name.encode() + b"\0" + key).digest())


def _scope(sent: bytes) -> dict[str, Any] | None:
    """The ASGI scope that a proxy sends to a replica; None if it is about no job and has no idempotency key."""
    if _JOBS.encode() not in sent and _KEY not in sent:
        return None
    scope: dict[str, Any] = pickle.loads(sent).asgi_scope  # noqa: S301 # written by the proxy itself
    return scope
