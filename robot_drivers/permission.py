"""Who may ask for what: the role of a client's token, and within it the role of the person who uses that client."""

from __future__ import annotations

from robot_drivers import messages as m
from robot_drivers.states import RefusedError, Role

_RANK = {Role.VIEW: 0, Role.POLICY: 0, Role.OPERATE: 1, Role.SUPERVISE: 2}
PolicyRequest = m.ProposeChunk | m.BeginEpisode | m.EndEpisode | m.ReportValue | m.ReportWaiting


def effective_role(request: m.Request, token_role: Role) -> Role:
    """The role in which a request counts; anybody authenticated may stop.

    Args:
        request: as received.
        token_role: of the client; a person's own may be less.

    Raises:
        RefusedError: if that role may not ask for this.
    """
    name = type(request).__name__
    if isinstance(request, PolicyRequest):
        if token_role is not Role.POLICY:
            raise RefusedError(f"role {token_role.value} may not send {name}; expected the token of role policy")
    elif isinstance(request, m.PersonsRequest):
        role = min(token_role, request.role, key=_RANK.__getitem__)
        if _RANK[role] < _RANK[Role.OPERATE]:
            raise RefusedError(f"{request.operator} has role {role.value}; {name} needs operate")
        return role
    elif not isinstance(request, m.Stop) and _RANK[token_role] < _RANK[Role.OPERATE]:
        raise RefusedError(f"role {token_role.value} may not move the robot; expected operate")
    return token_role
