"""What the replicas of a cluster know of each other; `python -m bench cluster` runs some."""

import importlib.util
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from backend.admission import Admission, Others
from backend.cli.arguments import parse
from backend.cli.cluster import RAY_SETTINGS, cluster
from backend.cluster.roster import GONE_SECONDS, ReplicaReport, Roster, others_than
from backend.errors import SettingsError
from backend.serving.monitoring import ReplicasCollector
from tests.sockets import SteppedTime

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_who_lacks_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=re.escape("requirements-cluster.txt")):
        cluster(parse(["cluster"]))


def test_the_manifest_sets_what_the_command_sets() -> None:
    manifest = (REPOSITORY / "deploy" / "ray-service.yaml").read_text("utf-8")
    set_there = dict(re.findall(r'{name: (RAY_\w+), value: "(.+)"}', manifest))
    assert set_there == RAY_SETTINGS


def report(replica_id: str, num_free: int = 0, *waited_seconds: float) -> ReplicaReport:
    return ReplicaReport(replica_id, 1, 0, 4, num_free, waited_seconds, {}, False)


def test_a_replica_that_tells_nothing_is_gone() -> None:
    seconds = 0.0
    roster = Roster(lambda: seconds)
    roster.tell(report("a", 2))
    assert len(roster.tell(report("b"))) == 2
    seconds = GONE_SECONDS
    assert [told.replica_id for told in roster.tell(report("b"))] == ["b"]


def test_metrics_of_all_replicas_are_told_at_each() -> None:
    seconds = 0.0
    roster = Roster(lambda: seconds)
    for replica_id, num_chunks in (("a", 3), ("b", 4)):
        registry = CollectorRegistry()
        chunks = Counter("chunks", "Chunks of sound.", ["kind"], registry=registry)
        chunks.labels("x").inc(num_chunks)
        roster.tell(report(replica_id))
        roster.tell_metrics(replica_id, generate_latest(registry).decode())
    both = CollectorRegistry()
    both.register(ReplicasCollector(roster.metrics()))
    families = {
        family.name: family
        for family in text_string_to_metric_families(generate_latest(both).decode())
    }
    samples = families["chunks"].samples
    told = [(each.labels, each.value) for each in samples if each.name == "chunks_total"]
    assert told == [({"kind": "x", "replica": "a"}, 3), ({"kind": "x", "replica": "b"}, 4)]
    seconds = GONE_SECONDS
    roster.tell(report("b"))
    assert list(roster.metrics()) == ["b"]


def test_a_replica_knows_of_the_others() -> None:
    reports = [report("a", 2, 5.0), report("b", 1, 3.0), report("c", 0, 1.0, 2.0)]
    assert others_than("a", reports, now=10.0) == Others(1, (7.0, 9.0, 8.0))


async def test_one_line_stands_before_all_replicas() -> None:
    time = SteppedTime()
    admission = Admission(1, time)
    place = admission.enter()
    assert place is not None
    assert admission.enter() is None
    await time.pass_by(10)
    waiter = admission.queue_up()
    assert waiter is not None
    standings = admission.standings(waiter)
    assert (await anext(standings)).position == 1
    # Somebody waits elsewhere who came before, and somebody who came later.
    admission.hear_of(Others(0, (5.0, 15.0)))
    standing = await anext(standings)
    assert (standing.position, standing.queue_length) == (2, 3)
    assert not admission.is_to_move(waiter)
    # Two places are free there: one of them is this one's turn.
    admission.hear_of(Others(2, (5.0,)))
    assert admission.is_to_move(waiter)
    assert not admission.has_room_elsewhere


async def test_who_comes_to_a_full_replica_goes_where_a_place_is_free() -> None:
    admission = Admission(0, SteppedTime())
    assert not admission.has_room_elsewhere
    admission.hear_of(Others(1))
    assert admission.has_room_elsewhere


async def test_a_replica_that_closes_lets_nobody_in() -> None:
    admission = Admission(1, SteppedTime())
    place = admission.enter()
    assert place is not None
    waiter = admission.queue_up()
    assert waiter is not None
    admission.close()
    assert admission.is_to_move(waiter)
    admission.leave(place)
    assert admission.enter() is None
    assert waiter.place is None
    assert admission.num_free == 0
