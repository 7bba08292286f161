"""Which shard comes next, which node may have it, and when one is given up."""

from pipeline.errors import CommitConflict, ShardError
from pipeline.executors.shard_queue import ShardQueue
from pipeline.executors.suspicion import Suspicion
from pipeline.records import Shard

SHARDS = [Shard(shard_id=f"s{number}", path=f"{number}.tar", size_bytes=1, etag=None) for number in range(6)]


def test_what_failed_waits_for_others_and_not_for_all() -> None:
    queue = ShardQueue(SHARDS, max_attempts=3, wait_for=2)
    order = []
    while queue:
        task = queue.next()
        order.append(task.shard.path[0])
        if task.shard.path in ("0.tar", "1.tar") and not task.errors:
            assert queue.failed(task, ShardError("no")) is None
    assert "".join(order) == "010" + "2345" + "1"


def test_what_is_given_back_comes_first_and_has_lost_nothing() -> None:
    queue = ShardQueue(SHARDS, max_attempts=2, wait_for=1)
    task = queue.next()
    assert queue.failed(task, ShardError("once")) is None
    queue.give_back(queue.next())
    assert len(queue) == 6
    assert queue.next() is task and len(queue) == 5
    failure = queue.failed(task, ShardError("twice"))
    assert failure is not None and failure.history == ("once", "twice") and len(queue) == 5


def test_what_no_attempt_can_mend_is_given_up_at_once() -> None:
    queue = ShardQueue(SHARDS, max_attempts=3, wait_for=1)
    failure = queue.failed(queue.next(), CommitConflict("another"))
    assert failure is not None and (failure.shard_id, failure.attempts) == ("s0", 1)


def test_a_node_on_which_all_fails_gets_a_shard_now_and_then() -> None:
    now = 0.0
    suspicion = Suspicion(lambda: now)
    nodes = {"bad", "good"}
    tried = 0
    for tick in range(6000):
        now = tick / 10
        if suspicion.allows("bad", nodes):
            tried += 1
            suspicion.failed("bad")
        assert suspicion.allows("good", nodes)
    assert tried == 15, "after 1, 2, 4 ... seconds, and then once a minute"
    assert suspicion.allows("bad", {"bad"}), "there is no other"
    suspicion.done("bad")
    assert suspicion.allows("bad", nodes)
