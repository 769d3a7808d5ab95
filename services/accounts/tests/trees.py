"""What the tests of the account tree share: a company with a tree, and people who hold roles in parts of it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import grants_pb2, grants_pb2_grpc, groups_pb2, groups_pb2_grpc
from numerator.options.v1 import options_pb2

from services.accounts.tests.world import PASSWORD, Company, World
from services.chassis.principal import Principal

AGENCY = "enterprises/agency/members/m"


@dataclass
class Tree:
    """
    A company whose accounts are in a tree: hq > north > outlet, and hq > south.

    Attributes:
        groups: names of the groups, by what they are called here.
    """

    world: World
    company: Company
    groups: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, world: World, company: Company | None = None) -> "Tree":
        """The tree, of a company that has just registered unless one is given."""
        tree = cls(world, company or world.register())
        tree.grow("hq")
        tree.grow("north", "hq")
        tree.grow("south", "hq")
        tree.grow("outlet", "north")
        return tree

    def grow(self, title: str, parent: str = "", **fields: Any) -> groups_pb2.AccountGroup:
        """A further group."""
        made = self.as_owner.CreateAccountGroup(
            groups_pb2.CreateAccountGroupRequest(
                parent=self.company.name,
                display_name=title.title(),
                parent_group=self.groups.get(parent, ""),
                **fields,
            )
        )
        self.groups[title] = made.name
        return made

    @property
    def as_owner(self) -> groups_pb2_grpc.GroupServiceStub:
        """The groups, as the owner sees them."""
        return self.as_(self.company.owner)

    def as_(self, principal: Principal) -> groups_pb2_grpc.GroupServiceStub:
        """The groups, as somebody sees them."""
        return groups_pb2_grpc.GroupServiceStub(self.world.running.as_(principal))

    def grants_as(self, principal: Principal) -> grants_pb2_grpc.GrantServiceStub:
        """The grants, as somebody sees them."""
        return grants_pb2_grpc.GrantServiceStub(self.world.running.as_(principal))

    def id(self, title: str) -> str:
        """A group's id."""
        return self.groups[title].rpartition("/")[2]

    def path(self, *titles: str) -> list[str]:
        """The ids of groups."""
        return [self.id(each) for each in titles]

    def move(
        self, title: str, parent: str = "", by: Principal | None = None, **fields: Any
    ) -> groups_pb2.AccountGroup:
        """Move a group, as its owner or somebody else."""
        return self.as_(by or self.company.owner).MoveAccountGroup(
            groups_pb2.MoveAccountGroupRequest(
                name=self.groups[title], parent_group=self.groups.get(parent, ""), **fields
            )
        )

    def bind(self, handle: str, group: str = "") -> pb.Account:
        """An account in a group."""
        return self.world.bind(self.company, handle, group=self.groups.get(group, ""))

    def place(
        self, rows: dict[str, str], by: Principal | None = None, **fields: Any
    ) -> list[groups_pb2.RowResult]:
        """Put accounts (names) into groups; what came of it."""
        wanted = [
            groups_pb2.PlaceAccountsRequest.Row(account=account, group=self.groups.get(group, ""))
            for account, group in rows.items()
        ]
        request = groups_pb2.PlaceAccountsRequest(parent=self.company.name, rows=wanted, **fields)
        return list(self.as_(by or self.company.owner).PlaceAccounts(request).results)

    def listed(self, by: Principal | None = None, **filters: Any) -> set[str]:
        """The handles of the accounts that somebody finds."""
        request = pb.ListAccountsRequest(parent=self.company.name, **filters)
        return {
            each.handle for each in self.world.as_(by or self.company.owner).ListAccounts(request).accounts
        }

    def holder(
        self, role: str, *titles: str, subject: str = AGENCY, everywhere: tuple[str, ...] = ()
    ) -> Principal:
        """Somebody with a token that says that they hold a role in these groups, and others everywhere."""
        return Principal(
            "MEMBER",
            subject,
            self.company.name,
            roles=frozenset(everywhere),
            grants={role: frozenset(self.path(*titles))},
        )

    def hire(self, email: str, role: str = "ANALYST") -> str:
        """A colleague's name."""
        return (
            self.world.as_(self.company.owner)
            .CreateMember(
                pb.CreateMemberRequest(
                    parent=self.company.name,
                    email=email,
                    display_name="Li",
                    role=options_pb2.Role.Value(role),
                    password=PASSWORD,
                )
            )
            .name
        )

    def grant(
        self,
        member: str,
        role: str,
        group: str,
        *,
        days: float | None = None,
        by: Principal | None = None,
        **fields: Any,
    ) -> grants_pb2.Grant:
        """Give a role, for some days or for ever, as the owner or somebody else."""
        return self.grants_as(by or self.company.owner).CreateGrant(
            grants_pb2.CreateGrantRequest(
                parent=self.company.name,
                member=member,
                role=options_pb2.Role.Value(role),
                group=self.groups.get(group, group),
                expire_time=None if days is None else stamp(self.world.clock.now() + timedelta(days=days)),
                **fields,
            )
        )


def stamp(time: datetime) -> Timestamp:
    """A moment, as requests carry it."""
    made = Timestamp()
    made.FromDatetime(time)
    return made
