"""Fails when a worker idles beside one that has two partitions more, or when partitions move for nothing.

Failure: a third worker beside two on four partitions gets none; a join moves every partition; impressions and
actions of the same number in different workers. Mechanism: random groups that grow and shrink, through the
protocol's own metadata. Required: sizes differ by one at most, each partition once, no move that need not be.
"""

from __future__ import annotations

from itertools import combinations

import faust
import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.assignor import EvenAssignor, even

TOPICS = ("impressions", "actions")
Shares = dict[str, set[int]]


def fewest_moves(partitions: int, held: Shares) -> int:
    """Of all even spreads, the fewest partitions that change hands: every choice of who has one more."""
    least, extra = divmod(partitions, len(held))
    stays = max(
        sum(min(len(mine), least + (member in more)) for member, mine in held.items())
        for more in combinations(held, extra)
    )
    return partitions - stays


def check_spread(partitions: int, shares: Shares) -> None:
    assert sorted(p for mine in shares.values() for p in mine) == list(range(partitions))
    sizes = [len(mine) for mine in shares.values()]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("partitions", "held", "sizes"),
    [
        (4, [{0, 1}, {2, 3}, set()], [2, 1, 1]),
        (5, [{0, 1}, {2, 3}, {4}, set()], [2, 1, 1, 1]),
        (10, [{0, 1, 2, 3, 4}, {5, 6, 7, 8, 9}, set()], [4, 3, 3]),
        (4, [set(), set()], [2, 2]),
        (2, [{0, 1}, set(), set()], [1, 1, 0]),
        (8, [{0, 1, 2, 3}, set()], [4, 4]),
    ],
)
def test_shares_are_even(partitions: int, held: list[set[int]], sizes: list[int]) -> None:
    """The cases that were seen, and their like; the last is a topic that has grown."""
    members = {str(k): mine for k, mine in enumerate(held)}
    shares = even(partitions, members)
    check_spread(partitions, shares)
    assert sorted(map(len, shares.values()), reverse=True) == sizes


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 24),
    st.lists(st.one_of(st.just("join"), st.integers(0, 5)), min_size=1, max_size=12),
)
def test_a_group_that_changes_moves_only_what_it_must(partitions: int, changes: list[str | int]) -> None:
    """Members come and go one after the other; what the first members have is told by the rule alone."""
    shares = even(partitions, {"first": set()})
    for number, change in enumerate(changes):
        held = {member: set(mine) for member, mine in shares.items()}
        if change == "join":
            held[f"member-{number}"] = set()
        elif len(held) > 1:
            held.pop(sorted(held)[int(change) % len(held)])
        shares = even(partitions, held)
        check_spread(partitions, shares)
        stayed = sum(len(shares[member] & mine) for member, mine in held.items())
        assert partitions - stayed == fewest_moves(partitions, held)
        assert even(partitions, shares) == shares, "nothing moves where nothing changed"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.lists(st.sets(st.integers(0, 15)), min_size=1, max_size=6))
def test_claims_that_contradict_each_other_are_settled(partitions: int, claims: list[set[int]]) -> None:
    """Members that were away claim what others have now, or partitions that are gone."""
    held = {str(k): mine for k, mine in enumerate(claims)}
    check_spread(partitions, even(partitions, held))


def test_a_partition_goes_to_its_standby() -> None:
    """Who has a table's copy need not read it all again."""
    shares = even(3, {"a": {0}, "b": {1}, "c": set()}, {"a": {2}, "c": {2}})
    assert shares == {"a": {0}, "b": {1}, "c": {2}}
    shares = even(4, {"a": {0}, "b": {1}}, {"a": {3}, "b": {2}})
    assert shares == {"a": {0, 3}, "b": {1, 2}}


class Group:
    """A consumer group whose members speak the protocol: metadata in, assignment out, and back in."""

    def __init__(self, partitions: int, replicas: int) -> None:
        self.app = faust.App("group", broker="kafka://", consumer_group_instance_id="leader")
        self.cluster = ClusterMetadata()
        self.cluster._partitions = {t: dict.fromkeys(range(partitions)) for t in TOPICS}
        self.leader = EvenAssignor(self.app, replicas=replicas)
        self.claims: dict[str, ClientAssignment] = {}

    def rebalance(self) -> None:
        members = {
            member: ConsumerProtocolMemberMetadata(
                self.leader.version,
                list(TOPICS),
                ClientMetadata(
                    assignment=claim, url=f"worker://{member}", changelog_distribution={}, topic_groups={}
                ).dumps(),
            )
            for member, claim in self.claims.items()
        }
        for member, answer in self.leader.assign(self.cluster, members).items():
            data = ClientMetadata.loads(self.leader._decompress(answer.user_data))
            assert data.url == f"worker://{member}"
            # What Kafka is told to let a member read is what the member takes for its own.
            assert sorted(answer.assignment) == sorted(data.assignment.actives.items())
            self.claims[member] = data.assignment

    def shares(self, active: bool = True) -> Shares:
        shares = {}
        for member, claim in self.claims.items():
            topics = claim.actives if active else claim.standbys
            first, second = (set(topics.get(topic, ())) for topic in TOPICS)
            assert first == second, "impressions and actions of one number belong together"
            shares[member] = first
        return shares


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(0, 2),
    st.lists(st.one_of(st.just("join"), st.integers(0, 5)), min_size=1, max_size=8),
)
def test_the_protocol_carries_it(partitions: int, replicas: int, changes: list[str | int]) -> None:
    """Through Faust's metadata, with and without standbys: each of these is of a partition that one does not
    read, and every partition has as many as there are members for."""
    group = Group(partitions, replicas)
    group.claims["member"] = ClientAssignment(actives={}, standbys={})
    group.rebalance()
    for number, change in enumerate(changes):
        if change == "join":
            group.claims[f"member-{number}"] = ClientAssignment(actives={}, standbys={})
        elif len(group.claims) > 1:
            group.claims.pop(sorted(group.claims)[int(change) % len(group.claims)])
        before = group.shares()
        group.rebalance()
        shares, standbys = group.shares(), group.shares(active=False)
        check_spread(partitions, shares)
        stayed = sum(len(shares[member] & mine) for member, mine in before.items())
        assert partitions - stayed == fewest_moves(partitions, before)
        copies = [p for mine in standbys.values() for p in mine]
        wanted = min(replicas, len(group.claims) - 1)
        assert sorted(copies) == sorted(list(range(partitions)) * wanted)
        assert all(shares[member].isdisjoint(standbys[member]) for member in shares)


def test_a_group_that_starts_as_a_whole_is_the_same_again() -> None:
    """Failure: after a stop of all workers each finds another's partitions. The broker's member ids are new,
    the static ids are not, and a member joins when it is up."""
    shares = []
    for order in (("a", "b", "c"), ("c", "a", "b")):
        group = Group(7, 1)
        for member in order:
            group.claims[member] = ClientAssignment(actives={}, standbys={})
        group.rebalance()
        shares.append(group.shares())
    assert shares[0] == shares[1]
