"""
The story that must always work, step by step, over the gateway's public HTTP API only.

Played by `make demo`, by the end-to-end tests and by `make verify-story`. It can be played again on the same data: who exists is
used again, and whatever must be new is new. What happens in a step is told in `chapters`.
"""

from collections.abc import Callable, Iterator

from rich.rule import Rule

from deploy.demo.chapters.admission import Admission
from deploy.demo.chapters.apps import Apps
from deploy.demo.chapters.campaign import AUDIENCE, Campaign
from deploy.demo.chapters.publishing import Publishing
from deploy.demo.chapters.team import Team
from deploy.demo.chapters.tree import Tree
from deploy.demo.client import Json
from deploy.demo.telling import PASSWORD, ROLLOUT, Places

__all__ = ["AUDIENCE", "PASSWORD", "ROLLOUT", "Places", "Story"]


class Story(Admission, Publishing, Campaign, Tree, Team, Apps):
    """One telling of the story. The steps come in order; each leaves what the next ones need."""

    def play(self) -> Json:
        """Tell it all."""
        for number, (title, step) in enumerate(self.steps(), start=1):
            self.console.print()
            self.console.print(Rule(f"[bold]{number}. {title}", align="left", style="cyan"))
            step()
        return self.results

    def steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The steps, in order."""
        yield "Ops starts a staged rollout of the edition", self.start_rollout
        yield "A company registers, and finds the door of the edition closed", self.register
        yield "Ops verifies the company: it is admitted to the private beta", self.admit
        yield "Two more companies wait, each with its reason", self.wait
        yield "A member binds four accounts by OAuth2", self.bind
        yield "The company's page gets a module that keeps its place", self.lay_out
        yield "The network sends what its people tell of themselves", self.ingest_profiles
        yield "The company describes whom it looks for", self.describe_audience
        yield "A campaign goes live: an event card on matched people's home pages", self.start_campaign
        yield "The network asks what to show, person by person", self.decide
        yield "Somebody signs up", self.sign_up
        yield "One publication, four accounts: the same, two variants, one left out", self.publish
        yield "People repost, comment and ask; one question is answered", self.answer
        yield "What came of it", self.analyse
        yield "Ops widens the stage", self.widen
        yield "A guardrail trips: the rollout takes itself back", self.trip
        yield "Who did what, and the proof of it", self.audit
        yield "The company grows a tree, and invites the holders of twelve accounts", self.invite_holders
        yield "A colleague gets one province, an agency gets another for a month", self.share_out
        yield "A partner's app posts in one province, and is told by webhook", self.connect_app
        yield "A crisis: one province is frozen", self.freeze
        yield "The network takes a token back", self.lose_token
        yield "The partner leaves, and the company looks at who did what", self.part
