"""How the builtin Google robot moves: the same links, joints and inertias as upstream's robot, number by number.

Before hop 1 of the tour. With the link and joint tree, joint origins, axes and limits, masses, centres of mass and inertia
tensors equal, the two robots follow the same commands along the same paths; a test compares them in SAPIEN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from envs.simpler.assets import Vector

_ORIGIN: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Inertial:
    """Mass in kg, centre of mass in m, inertia about it in kg m^2, all in the link's frame."""

    mass: float
    center: Vector
    inertia: tuple[float, float, float, float, float, float]
    """xx, xy, xz, yy, yz, zz."""


@dataclass(frozen=True)
class Joint:
    """How a link hangs on its parent: origin in m, roll-pitch-yaw in rad; a moving one has an axis and limits in rad or m."""

    name: str
    parent: str
    child: str
    xyz: Vector
    rpy: Vector = _ORIGIN
    axis: Vector | None = None
    """None: fixed."""
    limits: tuple[float, float] = (0.0, 0.0)
    slides: bool = False
    """Along the axis instead of turning about it."""


_FINGER = Inertial(
    0.033324467357629,
    (3.15535341569906e-08, 3.50529611204361e-04, 3.71802506226547e-02),
    (
        9.32117719701092e-06,
        1.22669879721999e-11,
        -7.58255431912799e-12,
        6.08487398831113e-06,
        1.57826570013177e-06,
        3.23630320887583e-06,
    ),
)
_TIP = Inertial(
    1.61861871252174e-02,
    (7.32211158115053e-08, 4.1273472371548e-04, 2.15605732703755e-02),
    (1.066e-05, 0, 0, 1.147e-05, 0, 1.78e-06),
)
# Upstream gives the nails and the rear wheels no inertia of their own; these are what SAPIEN derives from their meshes.
_NAIL_RIGHT = Inertial(3.68913e-05, (-0.00071, -0.00105, -0.00023), (1e-6, 0, 0, 1e-6, 0, 1e-6))
_NAIL_LEFT = Inertial(3.85983e-05, (-0.00049, -0.00108, -0.00022), (1e-6, 0, 0, 1e-6, 0, 1e-6))
_REAR_WHEEL = Inertial(0.0996809, _ORIGIN, (3.96860e-05, 0, 0, 7.11681e-05, 0, 3.96860e-05))

INERTIALS: Mapping[str, Inertial] = MappingProxyType(
    {
        "link_base": Inertial(
            52.9101052160097,
            (-0.142542994624505, 2.33339305547787e-03, 0.130110970092973),
            (
                2.78321475990223,
                1.02013636219535e-03,
                -0.544719331016329,
                3.24941132525702,
                7.51942241521894e-03,
                1.33602142044359,
            ),
        ),
        "link_wheel_left": Inertial(
            0.227550092516064,
            _ORIGIN,
            (
                2.25894737564536e-04,
                -1.73680020768121e-07,
                -7.41129856416082e-07,
                4.34263997688239e-04,
                -1.74562742842436e-07,
                2.25894737558779e-04,
            ),
        ),
        "link_wheel_right": Inertial(
            0.227550092516064,
            _ORIGIN,
            (
                2.25894737564536e-04,
                -1.73680020768121e-07,
                7.41129856416082e-07,
                4.34263997688239e-04,
                1.74562742842436e-07,
                2.25894737558779e-04,
            ),
        ),
        "link_rear_wheel_left": _REAR_WHEEL,
        "link_rear_wheel_right": _REAR_WHEEL,
        "link_torso": Inertial(
            1.8957478141399,
            (-3.49440775620019e-03, -6.07148425485309e-02, 0.111756043503709),
            (
                1.33075265762797e-02,
                1.89697020107391e-04,
                2.61969764388555e-05,
                6.70473236899565e-03,
                1.74650164172695e-04,
                0.01146044402243,
            ),
        ),
        "link_shoulder": Inertial(
            1.84719381890442,
            (1.08073648299081e-03, 4.80943923806668e-03, 0.104943810827839),
            (
                1.39748177932869e-02,
                -4.34243299680672e-05,
                -1.63555207176536e-05,
                1.42491663186364e-02,
                4.46239649689696e-04,
                2.94679102626988e-03,
            ),
        ),
        "link_bicep": Inertial(
            1.24742039827471,
            (4.09029241155202e-04, -2.11440998419464e-02, 0.135242657168686),
            (
                7.04679718538362e-03,
                1.36969628307193e-10,
                3.84597629359556e-05,
                6.88742202474402e-03,
                9.28918679930493e-04,
                1.85445900824595e-03,
            ),
        ),
        "link_elbow": Inertial(
            0.646384675806209,
            (1.73027427722836e-03, -7.65653785661243e-02, 3.67058126361657e-02),
            (
                1.78669367379914e-03,
                4.72737764012305e-09,
                1.63948789791547e-05,
                1.18491737676627e-03,
                4.57024538361969e-04,
                1.3174964153246e-03,
            ),
        ),
        "link_forearm": Inertial(
            0.724366583650768,
            (1.27504320016631e-05, 0.015087509138929, 0.181814236861875),
            (
                7.2105415923413e-03,
                1.04502358823027e-07,
                1.31044797457377e-06,
                7.15752801157893e-03,
                -5.11256783255503e-04,
                5.91583070198947e-04,
            ),
        ),
        "link_wrist": Inertial(
            0.501929332223751,
            (-2.97206845574571e-04, -7.32716069306932e-03, 5.36615347785701e-02),
            (
                1.14262626699036e-03,
                -2.30402238037496e-06,
                -6.14792965371237e-06,
                1.07002285178686e-03,
                -2.60092608214865e-04,
                4.2713626545483e-04,
            ),
        ),
        "link_gripper": Inertial(
            0.40507013, (4.2266e-04, 1.1761e-04, 0.03790068), (2.9237e-04, 3.59e-06, 2.66e-06, 2.6364e-04, 6.6e-07, 3.1135e-04)
        ),
        "link_finger_right": _FINGER,
        "link_finger_left": _FINGER,
        "link_finger_tip_right": _TIP,
        "link_finger_tip_left": _TIP,
        "link_finger_nail_right": _NAIL_RIGHT,
        "link_finger_nail_left": _NAIL_LEFT,
        "link_head_pan": Inertial(
            0.96335794,
            (1.64010030935057e-02, -5.7398337011911e-04, 8.68775033608304e-02),
            (1.99658e-03, -2.2593e-04, 5.3396e-04, 2.82709e-03, -1.2776e-04, 2.40811e-03),
        ),
        "link_head_tilt": Inertial(
            0.879240552641472,
            (7.28448960084497e-02, -3.00449029242004e-03, 1.32833990979786e-03),
            (
                3.36483410344631e-03,
                -6.95997852501698e-05,
                -3.20907144882021e-06,
                1.55398903526845e-03,
                -6.72868939256485e-06,
                4.10079899218125e-03,
            ),
        ),
    }
)

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_TIP_OFFSET: Vector = (0.0, -1.03567252152576e-02, 6.41556076619853e-02)


def _mount(child: str, xyz: Vector, rpy: Vector = _ORIGIN, *, parent: str = "link_base", name: str = "") -> Joint:
    return Joint(name or f"{child}_mount", parent, child, xyz, rpy)


def _sensor_mounts() -> list[Joint]:
    """Frames without mass or shape; kept so that link lists equal upstream's."""
    mounts = [
        _mount("link_base_inertial", INERTIALS["link_base"].center, name="link_base_inertial_joint"),
        _mount("link_base_imu_mount", (0.09005, 0.0622, 0.0650), name="joint_base_imu_mount"),
        _mount("imu.base", _ORIGIN, parent="link_base_imu_mount", name="joint_imu.base"),
        _mount("link_neck_imu_mount", (0.89029, 0.00965, 0.03835), name="joint_neck_imu_mount"),
        _mount("imu.neck", _ORIGIN, parent="link_neck_imu_mount", name="joint_imu.neck"),
    ]
    yaws = {"right": (4.4279, 4.0596, 3.6931, 3.3249), "left": (1.8553, 2.2235, 2.5901, 2.9583)}
    places = (("1", -0.3227, 0.1755), ("2", -0.3639, 0.1338), ("back_1", -0.3779, 0.0812), ("back_2", -0.3848, 0.0277))
    for side, sign in (("right", -1.0), ("left", 1.0)):
        for (label, x, y), yaw in zip(places, yaws[side], strict=True):
            mounts.append(_mount(f"time_of_flight.{side}_{label}", (x, sign * y, 0.0930), (0.0, 0.0, yaw)))
        mounts.append(_mount(f"cliff.rear_{side}", (-0.3597, sign * 0.1522, -0.0139), (0.0, 1.570795, 0.0)))
    return mounts


def _finger_joints(side: str, y: float, yaw: float) -> list[Joint]:
    finger, tip, nail = (f"link_finger_{part}{side}" for part in ("", "tip_", "nail_"))
    return [
        Joint(f"joint_finger_{side}", "link_gripper", finger, (0.0, y, 0.05861), (-1.15, 0.0, yaw), _X, (-0.0001, 1.3)),
        Joint(f"joint_finger_tip_{side}", finger, tip, _TIP_OFFSET, (0.45, 0.0, 0.0)),
        Joint(f"joint_finger_nail_{side}", tip, nail, (0.0, 0.0, 0.0463)),
    ]


JOINTS: tuple[Joint, ...] = (
    *_sensor_mounts(),
    Joint("joint_wheel_left", "link_base", "link_wheel_left", (0.0, 0.18333, 0.0)),
    Joint("joint_wheel_right", "link_base", "link_wheel_right", (-1.38753859997836e-04, -0.18333, 0.0)),
    Joint("joint_rear_wheel_left", "link_base", "link_rear_wheel_left", (-0.338371, 0.094989, -0.029296)),
    Joint("joint_rear_wheel_right", "link_base", "link_rear_wheel_right", (-0.338371, -0.094989, -0.029296)),
    Joint("joint_torso", "link_base", "link_torso", (0.0, 0.0, 0.5945), axis=_Z, limits=(-4.49, 1.35)),
    Joint("joint_shoulder", "link_torso", "link_shoulder", (0.0, -0.16728852885, 0.113), axis=_Y, limits=(-2.66, 3.18)),
    Joint("joint_bicep", "link_shoulder", "link_bicep", (0.0, 2.289e-03, 0.21502852885), axis=_Z, limits=(-2.13, 3.71)),
    Joint("joint_elbow", "link_bicep", "link_elbow", (0.0, -0.064, 0.1849715), axis=_Y, limits=(-2.05, 3.79)),
    Joint("joint_forearm", "link_elbow", "link_forearm", (0.0, -0.101, 0.0915), axis=_Z, limits=(-2.92, 2.92)),
    Joint("joint_wrist", "link_forearm", "link_wrist", (0.0, -6.04e-03, 0.2735), axis=_Y, limits=(-1.79, 1.79)),
    Joint("joint_gripper", "link_wrist", "link_gripper", (0.0, 6.0384e-03, 0.10911), axis=_Z, limits=(-4.49, 1.35)),
    Joint(
        "gripper_tcp_joint",
        "link_gripper",
        "link_gripper_tcp",
        (4.3374896e-03, 1.8852949e-03, 1.6353297e-01),
        (-0.001328879239766479, -0.00443973089771006, -0.0008686511567993004),
    ),
    *_finger_joints("right", -0.025, 3.14159265359),
    *_finger_joints("left", 0.025, 0.0),
    Joint("joint_head_pan", "link_base", "link_head_pan", (0.0, 0.0, 1.16902), axis=_Z, limits=(-3.79, 2.22)),
    Joint("joint_head_tilt", "link_head_pan", "link_head_tilt", (0.07181, 0.0, 0.11848), axis=_Y, limits=(-1.17, 1.17)),
    Joint("joint_camera_mount", "link_head_tilt", "link_camera", (0.10488, 0.0, 0.0), (-1.57079632679, 0.0, -1.57079632679)),
)
