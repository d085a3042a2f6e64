"""How closely these scenes replay what upstream SIMPLER (SAPIEN 2) recorded.

Each recorded run is restored to its recorded initial state (object poses, joint positions), its recorded actions are
executed, and the two are compared step by step::

    python -m envs.simpler.parity --traces DIR --json OUT --plot OUT.png

Required: arm joints within 2e-3 rad over the first ten actions, with upstream's assets also reset images within 0.2 of 255
outside proxied objects, and every recorded success succeeds. The other columns are for reading. Image differences are mean
absolute differences of the reset image over pixels and channels, in 0..255: once over all pixels, once without those within
8 pixels of an object whose textured mesh is absent and drawn as a proxy.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from core.command import EXIT_FAILED, run_command
from core.errors import AssetError, ConfigError
from envs.simpler.gym_env import SimplerGymEnv, make
from envs.simpler.tasks import TASKS, TaskSpec, find_task

ARM_TOLERANCE_RAD = 2e-3
FIRST_ACTIONS = 10
IMAGE_TOLERANCE = 0.2
"""0..255, with upstream's assets, outside proxied objects: a fifth of a grey level on average."""
_PROXY_MARGIN_PX = 8
"""A proxy's outline differs from that of the mesh it stands for, by its shadow and by bilinear filtering."""
_FINGERS = {"google_robot": [7, 8], "widowx": [6, 7]}  # in upstream's joint order; all others count as arm, also the head
_SMALLEST_INERTIA = 1e-6
"""kg or kg m2: SAPIEN 3 makes smaller ones that large. They belong to sensors' frames of a milligram, fixed to other links."""
NOT_OFFERED = "task not offered yet"

Row = dict[str, Any]


def find_traces(directory: str | None = None) -> Path:
    """The folder of recorded runs: the argument, else $SIMPLER_TRACES, else beside the repository.

    Raises:
        AssetError: if it is not there or holds no runs.
    """
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "simpler_traces"
    path = Path(directory or os.environ.get("SIMPLER_TRACES") or beside)
    if not any(path.glob("*.npz")):
        raise AssetError(f"no recorded runs (NAME.json with NAME.npz) in {path}; pass --traces DIR or set SIMPLER_TRACES")
    return path


def compare_all(traces: Path, assets: str, report: Callable[[str], None] = lambda _: None) -> list[Row]:
    """Replay every trace in a folder.

    Args:
        traces: folder with NAME.json, NAME.npz, NAME_reset.png.
        assets: name of the asset set.
        report: is told what is being done.

    Returns:
        One row a trace; a trace of a task that is not offered has only ``trace``, ``task`` and ``status``.
    """
    envs: dict[tuple[str, str], SimplerGymEnv] = {}
    rows = []
    try:
        for record in sorted(path for path in traces.glob("*.json") if path.with_suffix(".npz").exists()):
            init = json.loads(record.read_text())["init"]
            report(f"replaying {record.stem}")
            task = _offered(init["task"])
            if task is None:
                rows.append({"trace": record.stem, "task": init["task"], "status": NOT_OFFERED})
                continue
            key = (task.env_id, init["urdf_version"])
            if key not in envs:
                envs[key] = make(task.name, assets=assets, urdf_version=init["urdf_version"])
            rows.append(compare(record, envs[key]))
    finally:
        for env in envs.values():
            env.close()
    return rows


def compare(record: Path, env: SimplerGymEnv) -> Row:
    """Replay one trace in an environment of its task family.

    Args:
        record: NAME.json, with NAME.npz and NAME_reset.png beside it.
        env: made with the trace's robot colour.
    """
    trace = json.loads(record.read_text())
    init, arrays = trace["init"], np.load(record.with_suffix(".npz"))
    reset_obs = restore(env, init)
    camera = env.embodiment.camera.name
    image = imageio.imread(record.with_name(f"{record.stem}_reset.png"))[..., :3]
    difference = np.abs(image.astype(float) - reset_obs["image"][camera]["rgb"])
    static = {
        "image_mean_abs": float(difference.mean()),
        "image_outside_proxies_mean_abs": float(difference[~_near_proxies(env, reset_obs["image"][camera])].mean()),
        "camera_max_abs": _camera_difference(reset_obs["camera_param"][camera], init["camera"]),
        **_body_differences(env, init),
    }
    env.scene.is_rendering = False
    try:
        qpos, tool, objects, success = _replay(env, arrays["action"])
    finally:
        env.scene.is_rendering = True
    recorded_objects = _object_positions(trace, arrays)
    joint_error = np.abs(qpos - arrays["qpos"])
    fingers = _FINGERS[env.embodiment.name]
    arm_error = np.delete(joint_error, fingers, axis=1)
    tool_error = np.linalg.norm(tool - arrays["tcp_pose_world"][:, :3], axis=1)
    object_error = np.linalg.norm(objects - recorded_objects, axis=1)
    return {
        "trace": record.stem,
        "task": init["task"],
        "status": "replayed",
        "assets": env.asset_set,
        "steps": len(qpos),
        "arm_max_rad_first10": float(arm_error[:FIRST_ACTIONS].max()),
        "arm_max_rad": float(arm_error.max()),
        "fingers_max_rad": float(joint_error[:, fingers].max()),
        "tool_max_m": float(tool_error.max()),
        "object_max_m": float(object_error.max()),
        "arm_rad": arm_error.max(axis=1).tolist(),
        "tool_m": tool_error.tolist(),
        "object_m": object_error.tolist(),
        "success_upstream": bool(arrays["success"][-1]),
        "success_ours": bool(success[-1]),
        "first_success_upstream": _first(arrays["success"]),
        "first_success_ours": _first(success),
        **static,
    }


def restore(env: SimplerGymEnv, init: Mapping[str, Any]) -> dict[str, Any]:
    """Reset to a trace's options, then put objects and joints exactly where upstream had them.

    Returns:
        The observation of that state.
    """
    import sapien

    from envs.simpler.drawer import CabinetScene

    options = json.loads(json.dumps(init["options"]))
    orientation = init["reset_info"].get("orientation")
    if orientation is not None:
        options.setdefault("obj_init_options", {})["orientation"] = orientation
    env.reset(seed=init["seed"], options=options)
    scene = env.scene
    for name, actor in scene.scene.actors.items():
        if name in init["actors"] and name != "arena":
            pose = init["actors"][name]["pose"]
            actor.set_pose(sapien.Pose(pose[:3], pose[3:]))
    if isinstance(scene, CabinetScene):
        scene.drawer_positions = np.asarray(init["art"]["qpos"])  # recorded from top to bottom, as ours
    scene.agent.set_qpos_upstream(np.asarray(init["qpos"]))
    scene.note_settled()
    return env.get_obs()


def violations(rows: list[Row], *, require_success: bool) -> list[str]:
    """What does not hold that must; empty if all is well."""
    found = []
    for row in rows:
        if row["status"] == NOT_OFFERED:
            continue
        if not row["arm_max_rad_first10"] <= ARM_TOLERANCE_RAD:
            found.append(
                f"{row['trace']}: arm differs by {row['arm_max_rad_first10']:.2e} rad, at most {ARM_TOLERANCE_RAD} allowed"
            )
        if row["assets"] == "upstream" and not row["image_outside_proxies_mean_abs"] <= IMAGE_TOLERANCE:
            found.append(
                f"{row['trace']}: reset image differs by {row['image_outside_proxies_mean_abs']:.2f} of 255 outside proxied "
                f"objects, at most {IMAGE_TOLERANCE} allowed"
            )
        if require_success and row["success_upstream"] and not row["success_ours"]:
            found.append(f"{row['trace']}: succeeded upstream, fails here")
    return found


def _near_proxies(env: SimplerGymEnv, image: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """[H, W]: where an object is seen whose own mesh is absent from the assets, and a little around it."""
    proxied = {path.split("/")[1] for path in env.scene.assets.proxies() if path.startswith("objects/")}
    ids = [int(actor.per_scene_id[0]) for name, actor in env.scene.scene.actors.items() if name in proxied]
    is_proxy = np.isin(image["Segmentation"][..., 1], ids).astype(np.uint8)
    width_px = 2 * _PROXY_MARGIN_PX + 1
    return cv2.dilate(is_proxy, np.ones((width_px, width_px), np.uint8)).astype(bool)


def _offered(name: str) -> TaskSpec | None:
    try:
        return find_task(name)
    except ConfigError:
        if name in TASKS:
            return None
        raise


def _replay(
    env: SimplerGymEnv, actions: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Joint positions [T, 11], tool and object positions [T, 3] in the world, success [T]."""
    qpos, tool, objects, success = [], [], [], []
    for action in actions:
        obs, _, _, _, info = env.step(action)
        qpos.append(obs["agent"]["qpos"])
        tool.append(obs["extra"]["tcp_pose"][:3])
        objects.append(env.scene.task_pose().p)
        success.append(info["success"])
    return np.array(qpos), np.array(tool), np.array(objects), np.array(success)


def _object_positions(trace: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """World positions [T, 3] of what the instruction is about."""
    if find_task(trace["init"]["task"]).family == "drawer":
        return _drawer_positions(trace["init"], arrays)
    index = trace["actor_order"].index(_object_name(trace["init"]))
    positions: NDArray[Any] = arrays["actor_poses"][:, index, :3]
    return positions


def _drawer_positions(init: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """World positions [T, 3] of the drawer: its first one, moved along the cabinet's x axis (the world's) by its joint."""
    import sapien

    root, relative = init["root_pose"], init["reset_info"]["drawer_pose_wrt_robot_base"]
    first = (sapien.Pose(root[:3], root[3:]) * sapien.Pose(relative[:3], relative[3:])).p
    index = init["art"]["joints"].index(f"{_drawer_name(init)}_joint")
    travel = arrays["art_qpos"][:, index] - init["art"]["qpos"][index]
    return np.asarray(first + travel[:, None] * np.array([1.0, 0.0, 0.0]))


def _drawer_name(init: Mapping[str, Any]) -> str:
    """The cabinet's link that the instruction is about: "open top drawer" -> "top_drawer"."""
    return "_".join(init["instruction"].split()[1:])


def _object_name(init: Mapping[str, Any]) -> str:
    """The actor that the instruction is about."""
    info = init["reset_info"]
    return str(info["model_id"] if "model_id" in info else info["episode_source_obj_name"])


def _camera_difference(ours: Mapping[str, NDArray[Any]], recorded: Mapping[str, Any]) -> float:
    """Largest absolute difference over intrinsics, extrinsics and camera-to-world matrices."""
    pairs = ((np.asarray(ours[key]), np.asarray(recorded[key])) for key in ("intrinsic_cv", "extrinsic_cv", "cam2world_gl"))
    return max(float(np.abs(mine[:3] - theirs[:3]).max()) for mine, theirs in pairs)


def _body_differences(env: SimplerGymEnv, init: Mapping[str, Any]) -> Row:
    """Largest relative differences of mass and principal inertias, and of the object's centre of mass in metres."""
    from envs.simpler.drawer import DrawerScene
    from envs.simpler.native import rigid_body, unwrap

    scene = env.scene
    links = {link.name: unwrap(link) for link in scene.agent.robot.links}
    if isinstance(scene, DrawerScene):
        body = unwrap(scene.cabinet_links[_drawer_name(init)])
        recorded = next(link for link in init["art"]["links"] if link["name"] == _drawer_name(init))
    else:
        body, recorded = rigid_body(scene.task_object), init["actors"][_object_name(init)]
    return {
        "link_mass_max_rel": max(_relative(links[name].mass, link["mass"]) for name, link in init["links"].items()),
        "link_inertia_max_rel": max(_relative(links[name].inertia, link["inertia"]) for name, link in init["links"].items()),
        "object_mass_rel": _relative(body.mass, recorded["mass"]),
        "object_inertia_rel": _relative(body.inertia, recorded["inertia"]),
        "object_center_m": float(np.linalg.norm(body.cmass_local_pose.p - np.asarray(recorded["cmass"][:3]))),
    }


def _relative(ours: Any, recorded: Any) -> float:
    mine, theirs = (np.maximum(np.sort(np.atleast_1d(x)), _SMALLEST_INERTIA) for x in (ours, recorded))
    return float(np.abs(mine / theirs - 1.0).max())


def _first(success: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(success)) if success.any() else None


_COLUMNS = {
    "arm_max_rad_first10": "arm, first 10\nrad",
    "arm_max_rad": "arm, all\nrad",
    "tool_max_m": "tool\nm",
    "object_max_m": "object\nm",
    "object_mass_rel": "object mass\nrel.",
    "object_inertia_rel": "object inertia\nrel.",
    "link_mass_max_rel": "link masses\nrel.",
    "link_inertia_max_rel": "link inertias\nrel.",
    "camera_max_abs": "camera\nmatrices",
    "image_mean_abs": "reset image\n0..255",
    "image_outside_proxies_mean_abs": "the same, without\nproxied objects",
}


def _table(rows: list[Row], assets: str) -> Table:
    table = Table(title=f"Replay of upstream's recorded runs, asset set {assets}")
    table.add_column("trace")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    table.add_column("success\nupstream / here")
    for row in rows:
        if row["status"] == NOT_OFFERED:
            table.add_row(row["trace"], *[""] * len(_COLUMNS), NOT_OFFERED, style="dim")
            continue
        table.add_row(row["trace"], *(f"{row[key]:.2g}" for key in _COLUMNS), " / ".join(_success_words(row)))
    return table


def _markdown(rows: list[Row], assets: str) -> str:
    """The table for people to read without a terminal."""
    heads = ["trace", *(title.replace("\n", ", ") for title in _COLUMNS.values()), "success upstream / here"]
    lines = [f"Asset set `{assets}`.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        is_replayed = row["status"] != NOT_OFFERED
        cells = [f"{row[key]:.2g}" if is_replayed else "" for key in _COLUMNS]
        lines.append(f"| {' | '.join([row['trace'], *cells, ' / '.join(_success_words(row)) if is_replayed else NOT_OFFERED])} |")
    return "\n".join(lines) + "\n"


def _plot(rows: list[Row], path: Path, assets: str) -> None:
    """Error over time: arm, tool and object, a line a trace."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(9, 10), sharex=True, layout="constrained")
    titles = ("arm: largest joint error, rad", "tool: position error, m", "object or drawer: position error, m")
    for axis, key, title in zip(axes, ("arm_rad", "tool_m", "object_m"), titles, strict=True):
        for index, row in enumerate(row for row in rows if row["status"] != NOT_OFFERED):
            values = np.maximum(row[key], 1e-8)
            style = ("-", "--", ":")[index // 5 % 3]
            axis.semilogy(np.arange(1, len(values) + 1), values, style, color=f"C{index}", label=row["trace"], linewidth=1.4)
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].hlines(ARM_TOLERANCE_RAD, 1, FIRST_ACTIONS, color="black", linewidth=2, label="allowed, first 10 actions")
    axes[0].legend(fontsize=7, ncols=3, loc="lower right")
    axes[-1].set_xlabel("action")
    figure.suptitle(f"Replay of upstream's recorded runs, asset set {assets}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _success_words(row: Row) -> Iterator[str]:
    for side in ("upstream", "ours"):
        first = row[f"first_success_{side}"]
        yield ("yes" if row[f"success_{side}"] else "no") + (f" (step {first + 1})" if first is not None else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs.simpler.parity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--traces", metavar="DIR", help="recorded runs; default: $SIMPLER_TRACES, else ../shared/simpler_traces")
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows there, as a list of objects")
    parser.add_argument("--markdown", metavar="OUT", type=Path, help="write the table there")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw the errors over time there (.png)")
    parser.add_argument("--assets", default="upstream", choices=("upstream", "builtin"), help="default: upstream")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if all that is required holds. Recorded successes are required of the upstream assets only."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 160)
    with console.status("building the scene") as status:
        rows = compare_all(find_traces(options.traces), options.assets, report=status.update)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(_markdown(rows, options.assets))
    if options.plot is not None:
        _plot(rows, options.plot, options.assets)
    console.print(_table(rows, options.assets))
    problems = violations(rows, require_success=options.assets == "upstream")
    for problem in problems:
        print(f"parity: {problem}", file=sys.stderr)
    return EXIT_FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
