"""Draws the embedded world: toys made of ellipsoids, ray-cast in torch.

Everything is batched and a pure function of its tensors: the same `Toys` and `Scenes` give the same pictures. Lengths
are in toy units (a body is about 0.8 high).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .places import PLACE_LIGHT, draw_place
from .world import COLOURS, PATTERNS, Scenes, Toys

BODY, HEAD, BELLY, SNOUT, NOSE, EYES, PUPILS, EAR, ARMS, FEET, TAIL, BRIM, CROWN = range(13)
MATERIALS = 13
CELLS = 16  # rows and columns in which a render tells what is where
FURRY = torch.tensor([material in (BODY, HEAD, EAR, ARMS, FEET, TAIL) for material in range(MATERIALS)])


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """P ellipsoids a toy: centres (B, P, 3), radii (B, P, 3), rotations (B, P, 3, 3), material (P,), present (B, P)."""

    centre: Tensor
    radius: Tensor
    turn: Tensor
    material: Tensor
    present: Tensor


def _roll(degrees: Tensor, pitch: Tensor) -> Tensor:
    """Rotation (B, 3, 3): `degrees` about the axis to the viewer, after `pitch` degrees about the sideways axis."""
    c, s = torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)
    d, e = torch.cos(pitch * math.pi / 180), torch.sin(pitch * math.pi / 180)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    roll = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).view(-1, 3, 3)
    tilt = torch.stack([one, zero, zero, zero, d, -e, zero, e, d], -1).view(-1, 3, 3)
    return roll @ tilt


def _chosen(index: Tensor, kinds: tuple, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each toy's own row of a table of (centre, radius, angle): (B, 3), (B, 3), (B,)."""
    rows = torch.arange(len(index), device=index.device)
    angles = torch.tensor([side * kind[2] for kind in kinds], device=index.device)
    return (
        torch.stack([kind[0] for kind in kinds])[index, rows],
        torch.stack([kind[1] for kind in kinds])[index, rows],
        angles[index],
    )


def _build(toys: Toys, hat: Tensor) -> _Parts:
    u = toys.shape
    batch, device = len(toys), u.device
    rows: list[tuple[int, Tensor, Tensor, Tensor, Tensor]] = []
    always = torch.ones(batch, dtype=torch.bool, device=device)

    def vec(x, y, z) -> Tensor:  # noqa: ANN001 - floats or (B,) tensors alike
        return torch.stack([torch.as_tensor(v, device=device, dtype=u.dtype).expand(batch) for v in (x, y, z)], -1)

    def add(material: int, centre: Tensor, radius: Tensor, roll=0.0, pitch=0.0, present: Tensor = always) -> None:  # noqa: ANN001
        angle = torch.as_tensor(roll, device=device, dtype=u.dtype).expand(batch)
        tilt = torch.as_tensor(pitch, device=device, dtype=u.dtype).expand(batch)
        rows.append((material, centre, radius, _roll(angle, tilt), present))

    width = 0.31 + 0.11 * u[:, 0]
    head = 0.31 + 0.07 * u[:, 1]
    head_y = 0.60 + 0.04 * u[:, 2]
    arm = 0.18 + 0.09 * u[:, 3]
    foot = 0.17 + 0.09 * u[:, 4]
    eye = 0.060 + 0.025 * u[:, 5]
    ear = 0.85 + 0.3 * u[:, 6]
    snout = 0.11 + 0.05 * u[:, 7]
    add(BODY, vec(0, 0, 0), vec(width, 0.42, width * 0.88))
    add(HEAD, torch.stack([0 * head, head_y, 0 * head + 0.04], -1), vec(head, head * 0.92, head * 0.94))
    add(BELLY, vec(0, -0.02, width * 0.26), vec(width * 0.78, 0.335, width * 0.70))
    front = 0.04 + head * 0.94
    add(SNOUT, vec(0, head_y - 0.09, front - 0.02), vec(snout * 1.2, snout * 0.9, snout))
    add(NOSE, vec(0, head_y - 0.06, front + snout * 0.9), vec(0.05, 0.04, 0.04))
    for side in (-1, 1):
        add(EYES, vec(side * head * 0.42, head_y + 0.08, front * 0.84), vec(eye, eye * 1.1, eye * 0.8))
        add(
            PUPILS,
            vec(side * head * 0.42, head_y + 0.08, front * 0.84 + eye * 0.5),
            vec(eye * 0.6, eye * 0.7, eye * 0.5),
        )
        add(ARMS, vec(side * (width + 0.05), 0.14, 0.07), vec(0.1, arm, 0.1), roll=side * 28.0, pitch=-18.0)
        add(FEET, vec(side * width * 0.58, -0.42, 0.12), vec(0.13, 0.1, foot))
        top = head_y + head * 0.9
        kinds = (
            (vec(side * head * 0.82, top - 0.04, 0), vec(0.15 * ear, 0.15 * ear, 0.06), 0.0),
            (vec(side * (head * 0.70 + 0.08), top + 0.05, 0), vec(0.065, 0.25 * ear, 0.055), -38.0),
            (vec(side * head * 0.42, top + 0.24 * ear, 0), vec(0.085, 0.34 * ear, 0.06), -6.0),
            (vec(side * (head + 0.03), head_y - 0.08, 0), vec(0.085, 0.29 * ear, 0.12), 10.0),
        )
        add(EAR, *_chosen(toys.ears, kinds, side))
    back = -width * 0.85
    tails = (
        (vec(0, -0.16, back - 0.04), vec(0.14, 0.14, 0.14), 0.0),
        (vec(0, 0.06, back - 0.22), vec(0.06, 0.46, 0.06), -35.0),
        (vec(0, -0.02, back - 0.20), vec(0.19, 0.32, 0.19), -30.0),
    )
    centre, radius, pitch = _chosen(toys.tail, tails, 1)
    add(TAIL, centre, radius, pitch=pitch)
    top = head_y + head * 0.74
    add(BRIM, vec(0, top, 0.03), vec(head * 1.12, 0.05, head * 1.12), pitch=-6.0, present=hat > 0)
    add(CROWN, vec(0, top + 0.08, 0.02), vec(head * 0.70, 0.30, head * 0.70), present=hat > 0)
    material = torch.tensor([row[0] for row in rows], device=device)
    return _Parts(
        centre=torch.stack([row[1] for row in rows], 1),
        radius=torch.stack([row[2] for row in rows], 1),
        turn=torch.stack([row[3] for row in rows], 1),
        material=material,
        present=torch.stack([row[4] for row in rows], 1),
    )


def _camera(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Toy space to camera space (B, 3, 3): turn about the vertical by `azimuth`, then tip towards the viewer."""
    a, e = azimuth * math.pi / 180, elevation * math.pi / 180
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    yaw = torch.stack([a.cos(), zero, a.sin(), zero, one, zero, -a.sin(), zero, a.cos()], -1).view(-1, 3, 3)
    tip = torch.stack([one, zero, zero, zero, e.cos(), -e.sin(), zero, e.sin(), e.cos()], -1).view(-1, 3, 3)
    return tip @ yaw


def _patterned(local: Tensor, toys: Toys) -> Tensor:
    """How far the pattern's second colour covers each point, (R,) in [0, 1]; `local` (R, 3) in the toy's own space."""
    u = toys.shape
    x, y, z = local.unbind(1)
    phase = (u[:, 8] + u[:, 9]) * math.pi
    stripes = torch.sin(y * 21.0 + phase)
    grid = torch.remainder(local / 0.27 + torch.stack([u[:, 8], u[:, 9], 0 * phase + 0.5], 1), 1.0) - 0.5
    spots = 0.34 - grid.norm(dim=1)
    patches = torch.sin(x * 6.5 + phase) + torch.sin(y * 5.5 + 2 * phase) + torch.sin(z * 6.5 + 3 * phase) - 0.55
    field = torch.stack([torch.full_like(x, -1.0), stripes * 0.4, spots * 3.0, patches * 0.5], 1)
    return (field.gather(1, toys.pattern[:, None])[:, 0] * 12.0 + 0.5).clamp(0, 1)


def _palette(toys: Toys, hat: Tensor) -> Tensor:
    """Base colour of each material and the pattern's colour last: (B, MATERIALS + 1, 3)."""
    table = torch.tensor(list(COLOURS.values()), device=toys.shape.device)
    body, belly = table[toys.body], table[toys.belly]
    cap = table[(hat - 1).clamp_min(0)]
    white, dark = torch.full_like(body, 0.97), torch.full_like(body, 0.05)
    bright = body.mean(-1, keepdim=True) > 0.4
    second = torch.where(bright, body * 0.42, body * 0.55 + 0.42)
    order = {
        BODY: body, HEAD: body, BELLY: belly, SNOUT: belly, NOSE: dark, EYES: white, PUPILS: dark, EAR: body,
        ARMS: body, FEET: body, TAIL: body, BRIM: cap * 0.8, CROWN: cap,
    }  # fmt: skip
    return torch.stack([*(order[i] for i in range(MATERIALS)), second], 1)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """`pixels` (B, 3, size, size) in [0, 1]; `cells` (B, MATERIALS + 1, CELLS, CELLS) the share of each cell of the
    picture that each material takes, and last that fur of the pattern's colour takes."""

    pixels: Tensor
    cells: Tensor

    @property
    def coverage(self) -> Tensor:
        """The share of the picture each material takes, (B, MATERIALS)."""
        return self.cells[:, :MATERIALS].mean((2, 3))


def render(toys: Toys, scenes: Scenes, size: int = 64, supersample: int = 2, chunk: int | None = None) -> Rendered:
    """Draws a batch of toys in their scenes, orthographic, Lambert-shaded, antialiased by supersampling; `chunk` at a
    time. In float32 whatever autocast says: in bfloat16 pupils come and go, and outlines fray."""
    device = toys.shape.device.type
    chunk = chunk or (16 if device == "cpu" else 256)  # few fit a CPU's cache, many keep a card busy
    starts = range(0, len(toys), chunk)
    with torch.autocast(device, enabled=False):
        parts = [_render(toys[i : i + chunk], scenes[i : i + chunk], size, supersample) for i in starts]
    return Rendered(pixels=torch.cat([p.pixels for p in parts]), cells=torch.cat([p.cells for p in parts]))


def _plane(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The x (to the right) and y (up) of each pixel's centre in row order, both (side * side,) in [-1, 1]."""
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return x.reshape(-1), y.reshape(-1)


def standing(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    """How large the toys of pictures are, and the x and y of where they stand in the picture's plane, each (B,)."""
    far, n = scenes.size == 1, scenes.noise
    scale = torch.where(far, 0.58 + 0.06 * n[:, 0], 0.88 + 0.08 * n[:, 0])
    shift_x = (n[:, 1] - 0.5) * torch.where(far, 0.8, 0.24)
    feet_y = torch.where(far, -0.62 + 0.12 * (n[:, 2] - 0.5), -0.86 + 0.06 * (n[:, 2] - 0.5))
    return scale, shift_x, feet_y


def near_squares(scenes: Scenes) -> Tensor:
    """The squares of pictures in which their toys stand as those do that are near, (B, 3): x and y of the centre, to
    the right and down in the plane of [-1, 1], and the side as a share of the picture's."""
    scale, shift_x, feet_y = standing(scenes)
    side = scale / 0.92  # these two are the means of near ones, see `standing`
    return torch.stack([shift_x, -feet_y - 0.86 * side, side], 1)


def _render(toys: Toys, scenes: Scenes, size: int, supersample: int) -> Rendered:
    n, side, device = scenes.noise, size * supersample, toys.shape.device
    batch = len(toys)
    # 1 the picture plane, x to the right and y up, both in [-1, 1]
    x, y = _plane(side, device)
    scale, shift_x, feet_y = standing(scenes)
    shift_y = feet_y + 0.5 * scale
    # 2 ellipsoids in camera space: (p - c)' A (p - c) = 1
    parts = _build(toys, scenes.hat)
    camera = _camera(scenes.azimuth, 8 + 8 * n[:, 3])
    centre = torch.einsum("bij,bpj->bpi", camera, parts.centre) * scale[:, None, None]
    centre = centre + torch.stack([shift_x, shift_y, torch.zeros_like(shift_x)], -1)[:, None]
    axes = torch.einsum("bij,bpjk->bpik", camera, parts.turn) / (parts.radius * scale[:, None, None])[:, :, None]
    quadric = axes @ axes.transpose(-1, -2)
    # 3 depth along each ray: a z^2 + 2 b z + c = 0 with b linear and the discriminant quadratic in (x, y)
    a = quadric[..., 2, 2]
    b = quadric[..., :2, 2]
    minor = b[..., :, None] * b[..., None, :] - a[..., None, None] * quadric[..., :2, :2]
    cx, cy = centre[..., 0], centre[..., 1]
    xx, xy, yy = minor[..., 0, 0], 2 * minor[..., 0, 1], minor[..., 1, 1]
    poly = torch.stack(
        [xx, xy, yy, -2 * xx * cx - xy * cy, -2 * yy * cy - xy * cx, xx * cx * cx + xy * cx * cy + yy * cy * cy + a], -1
    )
    ones = torch.ones_like(x)
    disc = poly @ torch.stack([x * x, x * y, y * y, x, y, ones])
    linear = torch.stack([b[..., 0], b[..., 1], -(b[..., 0] * cx + b[..., 1] * cy) - centre[..., 2] * a], -1)
    depth = (disc.clamp_min(0).sqrt_() - linear @ torch.stack([x, y, ones])).div_(a[..., None])
    depth.masked_fill_((disc <= 0) | ~parts.present[..., None], -1e4)
    front, owner = depth.max(1)
    # 4 normals and colours of the nearest part, at the rays (R,) that hit one
    row, ray = (front > -1e3).nonzero().unbind(1)
    part = owner[row, ray]
    point = torch.stack([x[ray], y[ray], front[row, ray]], -1)
    from_centre = point - centre[row, part]
    normal = F.normalize((quadric[row, part] * from_centre[:, None]).sum(-1), dim=-1)
    offset = torch.stack([shift_x, shift_y, torch.zeros_like(shift_x)], -1)
    local = (camera.transpose(1, 2)[row] * ((point - offset[row]) / scale[row, None])[:, None]).sum(-1)
    palette = _palette(toys, scenes.hat)
    material = parts.material[part]
    mark = (_patterned(local, toys[row]) * FURRY.to(device)[material])[..., None]
    base = palette[row, material] * (1 - mark) + palette[row, -1] * mark
    # 5 light
    tint, ambient = PLACE_LIGHT.to(device)[scenes.place].split([3, 1], -1)
    light = F.normalize(torch.stack([n[:, 4] - 0.65, 0.55 + 0.4 * n[:, 5], 0.75 + 0 * n[:, 4]], -1), dim=-1)
    lambert = (normal * light[row]).sum(-1, keepdim=True).clamp_min(0)
    rim = 0.82 + 0.18 * normal[..., 2:3]
    toy = base * (ambient[row] + (1.06 - ambient)[row] * lambert) * rim * tint[row]
    layer = torch.zeros(batch, side * side, 4, device=device)
    layer[row, ray] = torch.cat([toy.clamp(0, 1), torch.ones_like(rim)], -1)
    layer = F.avg_pool2d(layer.view(batch, side, side, 4).permute(0, 3, 1, 2), supersample)
    # 6 the place, with the toy's shadow on its ground
    x, y = _plane(size, device)
    ground = draw_place(scenes.place, n[:, 6:], x, y)
    shadow_x = (x[None] - shift_x[:, None] - 0.12 * scale[:, None]) / (0.62 * scale[:, None])
    shadow_y = (y[None] - feet_y[:, None]) / (0.16 * scale[:, None])
    shadow = (1.4 - (shadow_x**2 + shadow_y**2)).clamp(0, 1)
    ground = (ground * (1 - 0.42 * shadow[..., None])).view(batch, size, size, 3).permute(0, 3, 1, 2)
    pixels = layer[:, :3] + (1 - layer[:, 3:]) * ground
    # 7 the truth of it, cell by cell
    wide = side // CELLS
    cell = ray // side // wide * CELLS + ray % side // wide
    shape = (batch, MATERIALS + 1, CELLS, CELLS)
    places = (row * shape[1] + torch.stack([material, torch.full_like(material, MATERIALS)])) * CELLS**2 + cell
    shares = torch.stack([torch.ones_like(mark[:, 0]), mark[:, 0]]) / wide**2
    cells = torch.bincount(places.flatten(), shares.flatten(), minlength=math.prod(shape)).view(shape)
    return Rendered(pixels=pixels, cells=cells)


def visible(toys: Toys, drawn: Rendered) -> dict[str, Tensor]:
    """Which identity attributes of its toy a picture shows at all, each (B,) bool, from the share of pixels that carry
    them; of a pattern but the plain one, its marks."""
    coverage, marks = drawn.coverage, drawn.cells[:, MATERIALS].mean((1, 2))
    fur = coverage[:, FURRY.to(coverage.device)].sum(1)
    return {
        "body": fur > 0.02,
        "belly": coverage[:, [BELLY, SNOUT]].sum(1) > 0.008,
        "pattern": (fur > 0.04) & ((toys.pattern == PATTERNS.index("plain")) | (marks > 0.004)),
        "ears": coverage[:, EAR] > 0.004,
        "tail": coverage[:, TAIL] > 0.006,
    }
