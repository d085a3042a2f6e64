"""What the robot is being used for: the open episode, its interventions, the policy's view of it, what its actor waits for."""

from __future__ import annotations

from robot_drivers import messages as m
from robot_drivers.lease import Lease
from robot_drivers.states import RefusedError, State
from robot_drivers.step_recorder import Occasion, Source


class Undertaking:
    """Changed by requests, read by every step and status."""

    def __init__(self) -> None:
        self.episode: m.BeginEpisode | None = None
        """As it was begun."""
        self.value: m.ReportValue | None = None
        """The policy's latest, in this episode."""
        self._waiting = ""
        self._waiting_until_s = 0.0
        self.intervention_id = -1
        """Of the latest takeover."""
        self.phase = m.Phase.NONE
        """Of the intervention that is going on."""

    @property
    def episode_id(self) -> str | None:
        """Of the open episode."""
        return self.episode.episode_id if self.episode else None

    @property
    def checkpoint(self) -> str | None:
        """Of the open episode."""
        return self.episode.checkpoint if self.episode else None

    def hear(self, report: m.ReportValue | m.ReportWaiting, now_s: float) -> None:
        """The robot actor says what its value model makes of the present, or what it waits for."""
        if isinstance(report, m.ReportValue):
            self.value = report
        else:
            self._waiting, self._waiting_until_s = report.what, now_s + report.valid_s

    def waiting_for(self, now_s: float) -> str:
        """What the robot actor waits for; empty if for nothing, or if it has not said so lately."""
        return self._waiting if now_s < self._waiting_until_s else ""

    def require_actor(self, now_s: float) -> None:
        """Check that the robot actor would act if it were handed the robot now; of one that says nothing it is not known.

        Raises:
            RefusedError: if no episode is open because it waits for something else.
        """
        if self.episode is None and (waiting := self.waiting_for(now_s)):
            raise RefusedError(f"the robot's worker cannot act yet: it waits for {waiting}")

    def begin(self, request: m.BeginEpisode, state: State) -> None:
        """Open an episode.

        Raises:
            RefusedError: while the robot moves, or another is open.
        """
        if state.moves or self.episode is not None:
            open_one = f"episode {self.episode_id} is open" if self.episode else "the robot is moving"
            raise RefusedError(f"cannot begin an episode in state {state.value}: {open_one}; end it first")
        self.episode, self.value = request, None

    def require_open(self, episode_id: str) -> None:
        """Check that this episode is the open one.

        Raises:
            RefusedError: if it is not.
        """
        if self.episode_id != episode_id:
            raise RefusedError(f"episode {episode_id} is not open; open is {self.episode_id}")

    def require_checkpoint(self, checkpoint: str) -> None:
        """Check that a chunk is of the checkpoint that the episode was begun with.

        Raises:
            RefusedError: if it is of another.
        """
        if self.episode is not None and checkpoint != self.episode.checkpoint:
            raise RefusedError(
                f"a chunk of checkpoint {checkpoint} in an episode of {self.episode.checkpoint}; swap between episodes"
            )

    def intervene(self, phase: m.Phase) -> None:
        """Somebody takes over."""
        self.intervention_id += 1
        self.phase = phase

    def occasion(self, source: Source, *, generation: int, lease: Lease) -> Occasion:
        """For the record of a step."""
        is_human = source == "human"
        return Occasion(
            source=source,
            generation=generation,
            episode_id=self.episode_id,
            checkpoint=self.checkpoint,
            operator=lease.holder if is_human else None,
            fence=lease.fence if is_human else None,
            intervention_id=self.intervention_id if is_human else -1,
            phase=self.phase if is_human else m.Phase.NONE,
        )
