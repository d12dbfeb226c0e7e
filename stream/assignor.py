"""Who reads which partitions: as even as can be, with as few moves as can be.

Faust's own assignor fills each worker up to ``ceil(partitions / workers)``, so that a third worker beside two
on four partitions gets none. Here no worker has more than one partition more than another, and a partition
moves only where that is needed. The wire format stays Faust's: name, version, metadata, standbys of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faust.assignor.client_assignment import ClientAssignment
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor


def even(
    partitions: int,
    held: Mapping[str, set[int]],
    standbys: Mapping[str, set[int]] | None = None,
) -> dict[str, set[int]]:
    """Spread ``range(partitions)`` over the members of ``held``, which says what each has now.

    Sizes differ by one at most; no partition moves that need not for it; the order of ``held`` decides what
    is left open. A partition that must find a new member goes to one of its ``standbys`` where that has room.

    >>> even(4, {"a": {0, 1}, "b": {2, 3}, "c": set()})
    {'a': {0, 1}, 'b': {2}, 'c': {3}}
    """
    kept = _kept(partitions, held)
    # Whoever holds most may have one more: that leaves the most where it is.
    by_size = sorted(kept, key=lambda member: -len(kept[member]))
    least, extra = divmod(partitions, len(kept))
    room = {member: least + (rank < extra) for rank, member in enumerate(by_size)}
    for member, mine in kept.items():
        mine.intersection_update(sorted(mine)[: room[member]])
    for partition in sorted(set(range(partitions)).difference(*kept.values())):
        free = [member for member, mine in kept.items() if len(mine) < room[member]]
        warm = [member for member in free if partition in (standbys or {}).get(member, ())]
        # The emptiest first: neighbours in number may be neighbours in load.
        kept[min(warm or free, key=lambda member: len(kept[member]))].add(partition)
    return kept


def _kept(partitions: int, held: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """What each member may keep: what exists, and of what several claim, one (the one with least)."""
    claims: dict[int, list[str]] = {}
    for member, mine in held.items():
        for partition in mine:
            if 0 <= partition < partitions:
                claims.setdefault(partition, []).append(member)
    kept: dict[str, set[int]] = {member: set() for member in held}
    for partition, members in sorted(claims.items(), key=lambda claim: (len(claim[1]), claim[0])):
        kept[min(members, key=lambda member: len(kept[member]))].add(partition)
    return kept


class EvenCopartitioned(CopartitionedAssignor):
    """Faust's assignment of topics that belong together, with actives spread by ``even``."""

    def get_assignment(self) -> Any:
        """Partitions and standbys of every member."""
        members = self._client_assignments
        wanted = even(
            self.num_partitions,
            {name: set(one.actives) for name, one in members.items()},
            {name: set(one.standbys) for name, one in members.items()},
        )
        for name, one in members.items():
            one.actives = wanted[name]
            one.standbys = {p for p in one.standbys if p < self.num_partitions} - one.actives
            one.unassign_extras(self.max_capacity, self.replicas)
        self._assign(active=False)
        return members


class EvenAssignor(PartitionAssignor):
    """Faust's assignor with even shares, and members known by their static id instead of host and web port.

    Kafka gives a static member that comes back the assignment that it had. Faust asserts that its URL is
    still the one in there; in a new container, or at another ``--web-port``, it is not, and the worker would
    wait for partitions for ever. The URL serves Faust's routing of table queries, which nothing here uses.
    """

    @property
    def _url(self) -> Any:
        return f"worker://{self.app.conf.consumer_group_instance_id}"

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        """As Faust does it, but for ``EvenCopartitioned`` and for the order of the members.

        They are taken in the order of their static ids: a broker makes up new member ids with each start,
        and a group that starts as a whole should find everybody's state where it was.
        """
        clients = {member: self._get_client_metadata(one) for member, one in member_metadata.items()}
        order = sorted(clients, key=lambda member: (clients[member].url, member))
        subscriptions: dict[str, Sequence[str]] = {
            member: member_metadata[member].subscription for member in order
        }
        group = ClusterAssignment()
        for member in order:
            group.add_client(member, subscriptions[member], clients[member])
        together = self._get_copartitioned_groups(group.topics(), cluster, subscriptions)
        self._update_member_urls(clients)
        assignments = {member: ClientAssignment(actives={}, standbys={}) for member in order}
        number_of_group: dict[str, int] = {}
        partitions_of: dict[str, int] = {}
        for number, (partitions, groups) in enumerate(sorted(together.items())):
            for topics in groups:
                number_of_group.update(dict.fromkeys(topics, number))
                partitions_of.update(dict.fromkeys(topics, partitions))
                spread = EvenCopartitioned(
                    topics=topics,
                    cluster_asgn=group.copartitioned_assignments(topics),
                    num_partitions=partitions,
                    replicas=self.replicas,
                )
                for member, share in spread.get_assignment().items():
                    assignments[member].add_copartitioned_assignment(share)
        assignments = self._global_table_standby_assignments(assignments, partitions_of)
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            number_of_group,
        )
