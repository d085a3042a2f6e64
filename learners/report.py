"""What a run leaves to look at after every iteration: the table, the learning curve, videos, a summary."""

from __future__ import annotations

from typing import Any

from actors.episode_video import imagine_along, write_episode_video
from actors.outcomes import SuccessSummary
from cluster.parts import Parts
from configs.build import load_policy
from configs.schema import ExperimentConfig
from core.ids import EpisodeId
from learners.display import Display
from learners.figures import learning_curve
from learners.phases import Phases
from learners.report_page import losses_by_phase, write_report_page
from learners.run_directory import RunDirectory, write_json

_PHASES = ("collect", "fit_value", "label", "update_policy", "evaluate")
_SUCCESS_KEYS = ("num_episodes", "num_successes", "success", "success_low", "success_high", "success_once", "mean_steps")


class RunReport:
    """Reports a run; reads its journal and stores, changes nothing of it."""

    def __init__(self, config: ExperimentConfig, run: RunDirectory, parts: Parts, phases: Phases, display: Display) -> None:
        """``phases`` know which value labels which iteration."""
        self._config = config
        self._run = run
        self._parts = parts
        self._phases = phases
        self._display = display
        self._num_iterations = 0

    def iteration(self, k: int) -> None:
        """Report an iteration that is done."""
        self._num_iterations = k + 1
        rows = self.rows()
        write_json(self._run.path / "summary.json", {"run": self._run.name, "iterations": rows})
        learning_curve(self._run.path / "learning_curve.png", rows, losses_by_phase(self._run.metrics_file))
        self._run.once(f"{k:03d}/videos", lambda: {"files": self._videos(k)})
        write_report_page(self._run.path)
        method = self._config.extraction.method.value
        self._display.iterations(f"{self._run.path}  ({method}, {self._config.env.task or self._config.env.family})", rows)

    def rows(self) -> list[dict[str, Any]]:
        """One row an iteration, JSON-like."""
        return [self._row(k) for k in range(self._num_iterations) if self._phases.is_done(k, "evaluate")]

    def _row(self, k: int) -> dict[str, Any]:
        results = {
            phase: self._phases.result(k, phase) for phase in (*_PHASES, "choose_threshold") if self._phases.is_done(k, phase)
        }
        evaluated, collected = results.get("evaluate", {}), results.get("collect", {})
        row: dict[str, Any] = {
            "iteration": k,
            "wall_s": {phase: results[phase]["wall_s"] for phase in _PHASES if phase in results},
        }
        if evaluated:
            success = SuccessSummary(**{key: evaluated[key] for key in _SUCCESS_KEYS})
            row |= {**success.to_json(), "success_text": success.text}
        if collected:
            row["rollout_success"] = collected["success"]
            row["num_rollouts"] = collected["num_episodes"]
            row |= {key: collected[key] for key in ("policy_age_mean", "policy_age_max")}
        row["num_collected"] = sum(
            self._phases.result(i, "collect")["num_episodes"] for i in range(1, k + 1) if self._phases.is_done(i, "collect")
        )
        label = results.get("label", {})
        row |= {key: label[key] for key in label if key.endswith("_correlation")}
        row |= {
            key.replace("positive_fraction/all", "positive_fraction"): v
            for key, v in results.get("choose_threshold", {}).items()
            if key.startswith("positive_fraction")
        }
        if "fit_value" in results:
            row["value_loss"] = results["fit_value"].get("loss")
        if "update_policy" in results:
            row["policy_loss"] = results["update_policy"].get("loss")
            row["indicator_effect"] = results["update_policy"].get("indicator_effect")
        return row | _rates(results)

    def _videos(self, k: int) -> list[str]:
        """Some evaluation episodes: a failure and a success first, where there are both."""
        wanted = self._config.tracking.num_videos
        if wanted == 0:
            return []
        store = self._parts.store
        ids: list[EpisodeId] = self._phases.result(k, "evaluate")["episodes"]
        failures = [e for e in ids if store.info(e).end.value != "success"]
        successes = [e for e in ids if store.info(e).end.value == "success"]
        mixed = [e for pair in zip(successes, failures, strict=False) for e in pair]
        chosen = list(dict.fromkeys([*mixed, *successes, *failures]))[:wanted]
        value = self._phases.value_checkpoint(k)
        self._parts.values.label_many(chosen, value)
        thresholds = self._phases.result(k, "choose_threshold")["thresholds"] if k else {}
        policy = load_policy(self._run.policy(k))
        files = []
        for number, episode_id in enumerate(chosen):
            episode = store.read(episode_id)
            outcome = "success" if episode.is_success else "failure"
            path = self._run.videos / f"iteration_{k:03d}_{number}_{outcome}.mp4"
            write_episode_video(
                path,
                episode,
                labels=self._parts.labels.get(episode_id, value.version),
                threshold=float(thresholds.get(episode.provenance.task, 0.0)),
                imagination=imagine_along(policy, episode, every_steps=self._config.rollout.replan_steps),
                title=f"iteration {k}: ",
            )
            files.append(path.name)
        return files


def _rates(results: dict[str, Any]) -> dict[str, Any]:
    """Environment steps and learner steps a second; and how a second was spent."""
    rates: dict[str, Any] = {}
    played = {phase: results[phase] for phase in ("collect", "evaluate") if phase in results}
    wall_s = sum(result["wall_s"] for result in played.values())
    if wall_s > 0:
        rates["env_steps_per_s"] = sum(result["num_steps"] for result in played.values()) / wall_s
    for phase, result in played.items():
        rates |= {f"{phase}_{key}": result[key] for key in ("env_s", "policy_s")}
    for fitted in ("fit_value", "update_policy"):
        if fitted in results:
            rates |= {f"{fitted}_{key}": results[fitted][key] for key in ("data_s", "step_s")}
    if (update := results.get("update_policy")) and update["step_s"] + update["data_s"] > 0:
        rates["learner_steps_per_s"] = update["num_steps_here"] / (update["step_s"] + update["data_s"])
    return rates
