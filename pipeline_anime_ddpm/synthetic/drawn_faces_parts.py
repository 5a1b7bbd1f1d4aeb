"""From the parameters of a drawn face to its SVG: one small function for each feature.

The canvas is 100 x 100 with its origin in the middle, y downwards: eyes near y = 9, chin near y = 36.
Features are drawn for the right half of the picture (positive x) and mirrored. Only the standard library is used.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

INK = "#2a1a2e"
NECK_Y = 36  # the head tilts about this height


@dataclass(frozen=True)
class Face:
    """Every drawn parameter of one face; lengths are in canvas units (the picture is 100 wide)."""

    hair: tuple[str, str, str]  # base, shade, shine
    eyes: tuple[str, str, str]  # upper iris, lower iris, glow
    skin: tuple[str, str, str, str]  # base, shadow, blush, line
    backdrop: tuple[str, str]
    backdrop_kind: str
    circles: tuple[tuple[float, float, float], ...]  # x, y, radius
    clothes: str
    collar: str
    accent: str
    back: str
    fringe: tuple[tuple[float, float], ...]  # the edge, left to right: valley, tip, ..., valley
    side_locks: str
    mouth: str
    accessory: str
    flip: int  # -1 or 1: the side of a ponytail, a clip, ...
    width: float  # half the width of the face
    chin: tuple[float, float]  # its y, and how blunt it is
    eye_x: float
    eye_y: float
    eye_size: tuple[float, float]  # half width, half height
    slant: float  # degrees; positive lifts the outer corner
    lid: float  # 0 wide open ... 1 half closed
    brow: tuple[float, float]  # height above the eye, angle in degrees
    gaze: tuple[float, float]
    blush: float  # opacity
    turn: float  # how far the features slide towards one side
    tilt: float  # degrees
    scale: float
    shift: tuple[float, float]


def mix(first: str, second: str, amount: float) -> str:
    """The colour `amount` of the way from `first` to `second` ("#rrggbb")."""
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in pairs)


def trace(*steps) -> str:
    """Path data: letters are commands, pairs are points."""
    return " ".join(step if isinstance(step, str) else f"{step[0]:.2f},{step[1]:.2f}" for step in steps)


def shape(data: str, fill="none", line=None, width=0.9, opacity=1.0) -> str:
    """A filled and/or outlined path."""
    stroke = f' stroke="{line}" stroke-width="{width:.2f}"' if line else ""
    alpha = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    return f'<path d="{data}" fill="{fill}"{stroke}{alpha}/>'


def oval(x, y, rx, ry, fill, line=None, width=0.9, opacity=1.0) -> str:
    """An ellipse."""
    top, bottom, radii = (x, y - ry), (x, y + ry), f"A{rx:.2f} {ry:.2f} 0 0 1"
    return shape(trace("M", top, radii, bottom, radii, top, "Z"), fill, line, width, opacity)


def group(content: str, transform: str) -> str:
    return f'<g transform="{transform}">{content}</g>'


def mirrored(content: str) -> str:
    """`content`, and its mirror image about the middle of the face."""
    return content + group(content, "scale(-1,1)")


def fade(name: str, *colours: str) -> str:
    """A gradient from top to bottom through evenly spaced colours."""
    stops = (f'<stop offset="{i / (len(colours) - 1):.2f}" stop-color="{c}"/>' for i, c in enumerate(colours))
    return f'<linearGradient id="{name}" x2="0" y2="1">{"".join(stops)}</linearGradient>'


def hair_line(face: Face) -> str:
    return mix(face.hair[1], INK, 0.5)


# name: (outline of the right half, strands on it)
BACK_HAIR = {
    "short": ("M0,-42C24,-44 36,-24 33,0C33,12 30,22 23,28Q20,24 18,30L0,30Z", ""),
    "spikes": (
        "M0,-43C20,-46 30,-36 32,-24Q36,-23 40,-26Q40,-15 35,-10Q40,-7 44,-9Q42,2 35,6Q39,10 43,9"
        "Q39,20 32,20Q34,26 37,27Q29,33 21,30L0,32Z",
        "M34,-8Q32,-2 28,0M34,8Q31,14 27,14",
    ),
    "bob": (
        "M0,-43C28,-45 38,-20 37,6C37,18 36,28 30,33C27,37 21,37 15,32L0,34Z",
        "M34,2Q34,20 28,31M30,8Q29,22 24,32",
    ),
    "long": ("M0,-43C28,-45 36,-22 37,4C38,24 40,42 43,62L0,62Z", "M34,8C35,28 36,42 38,60M30,12C31,30 31,44 32,60"),
    "wavy": (
        "M0,-43C28,-45 37,-22 36,0C36,8 42,10 42,18C42,25 38,27 40,34C42,42 47,46 44,62L0,62Z",
        "M33,4C32,12 38,16 37,24C36,30 34,34 36,42C37,48 40,52 39,60M30,14C29,22 33,26 32,34C31,42 33,48 34,60",
    ),
}


def backdrop(face: Face) -> str:
    light, deep = face.backdrop
    fill = {"flat": mix(light, deep, 0.5), "gradient": "url(#sky)", "circles": deep}[face.backdrop_kind]
    page = shape("M-50,-50H50V50H-50Z", fill)
    if face.backdrop_kind != "circles":
        return page
    return page + "".join(oval(x, y, r, r, light, opacity=0.6) for x, y, r in face.circles)


def back_hair(face: Face) -> str:
    """Everything behind the head; each style is drawn for the right half and mirrored."""
    line = hair_line(face)
    half, strands = BACK_HAIR.get(face.back, BACK_HAIR["short"])
    art = shape(half, "url(#back)", line)
    if strands:
        art += shape(strands, line=mix(face.hair[1], line, 0.5), width=0.7)
    if face.back == "twin tails":
        tail = "M27,-27C38,-39 50,-28 51,-8C53,14 52,36 42,54C42,40 44,34 40,24C38,30 36,33 33,36C36,22 26,-4 27,-27Z"
        knot = oval(29, -25, 3.6, 4.6, face.accent, mix(face.accent, INK, 0.5))
        art = shape(tail, "url(#hair)", line) + shape("M34,-22C42,-14 44,4 42,20", line=face.hair[1]) + art + knot
    if face.back == "buns":
        art = oval(25, -34, 11, 11, "url(#hair)", line) + shape("M19,-39Q26,-42 32,-34", line=face.hair[1]) + art
    art = mirrored(art)
    if face.back == "ponytail":
        tail = "M8,-38C20,-52 42,-46 47,-26C52,-4 50,20 37,46C38,34 39,26 37,16C36,22 34,27 31,30C33,4 38,-18 8,-38Z"
        strand = shape("M24,-38C40,-28 44,-6 40,14", line=face.hair[1])
        art = group(shape(tail, "url(#hair)", line) + strand, f"scale({face.flip},1)") + art
    return art


def body(face: Face) -> str:
    """Neck, shoulders and collar."""
    _, shadow, _, line = face.skin
    seam = mix(face.clothes, INK, 0.45)
    neck = shape("M-8,24V46H8V24Z", shadow, line, 0.8)
    shoulders = shape("M-50,70C-46,50 -30,45 -10,42Q0,52 10,42C30,45 46,50 50,70Z", face.clothes, seam)
    if face.collar == "round":
        return neck + shoulders + shape("M-10,42Q0,52 10,42", line=face.accent, width=2.2)
    if face.collar == "shirt":
        wing = shape("M9,39L1,50L12,56L18,44Z", "#fbfbff", seam, 0.8)
        return neck + shoulders + mirrored(wing) + shape("M-3,49L3,49L4,70L-4,70Z", face.accent, seam, 0.7)
    wing = shape("M9,40L0,54L26,60L24,45Z", mix(face.clothes, INK, 0.35), seam, 0.8)
    return neck + shoulders + mirrored(wing) + shape("M0,51L-8,47V57Z M0,51L8,47V57Z", face.accent, seam, 0.7)


def head(face: Face) -> str:
    """Ears, and the face itself."""
    w, (chin_y, blunt), line = face.width, face.chin, face.skin[3]
    ear = shape(trace("M", (w - 2, 2), "C", (w + 4, -3), (w + 7, 6), (w - 2, 15), "Z"), face.skin[0], line, 0.8)
    cheek = [(w, 8), (w * 0.98, 15), (w * 0.83, 22), (w * 0.66, 29), (blunt, chin_y), (0, chin_y)]
    back_up = [(-x, y) for x, y in cheek[-2::-1]]
    outline = ("M", (0, -38), "C", (w, -38), (w, -20), (w, -6), "C", *cheek, "C", *back_up, (-w, -6))
    return mirrored(ear) + shape(trace(*outline, "C", (-w, -20), (-w, -38), (0, -38), "Z"), face.skin[0], line)


def cheeks(face: Face) -> str:
    outer = oval(14.5, face.eye_y + 12.5, 5.2, 3.0, face.skin[2], opacity=face.blush * 0.45)
    return mirrored(outer + oval(14.5, face.eye_y + 12.5, 3.4, 1.9, face.skin[2], opacity=face.blush * 0.45))


def nose(face: Face) -> str:
    y = face.eye_y + 11.5
    return shape(trace("M", (-0.6, y), "L", (1, y + 1.6), "L", (-0.4, y + 2)), line=face.skin[3], width=0.8)


def mouth(face: Face) -> str:
    ink = mix(face.skin[3], INK, 0.55)
    inside = mix("#b23a4a", face.skin[3], 0.25)
    art = {
        "smile": shape("M-5,-1Q0,3 5,-1", line=ink, width=1.1),
        "small": shape("M-2.2,0Q0,1.4 2.2,0", line=ink, width=1.2),
        "neutral": shape("M-3.6,0.4H3.6", line=ink, width=1.1),
        "frown": shape("M-3.6,1Q0,-1.4 3.6,1", line=ink, width=1.1),
        "open": shape("M-4.6,-1.6Q0,-0.4 4.6,-1.6Q4,5 0,5Q-4,5 -4.6,-1.6Z", inside, ink, 0.9)
        + shape("M-2.4,3.6Q0,1.6 2.4,3.6Q0,5.4 -2.4,3.6Z", "#f08a8f"),
        "grin": shape("M-6,-1.6Q0,0.2 6,-1.6Q4.4,3.6 0,3.6Q-4.4,3.6 -6,-1.6Z", "#ffffff", ink, 1.0),
        "cat": shape("M-4.6,-0.6Q-2.6,2.4 0,-0.2Q2.6,2.4 4.6,-0.6", line=ink, width=1.1),
    }[face.mouth]
    return group(art, f"translate(0,{(face.eye_y + 13.5 + face.chin[0]) / 2 + 0.8:.2f}) scale(1.12)")


def iris(face: Face, side: int) -> str:
    """Iris, pupil, glow and highlights; the light falls from the same side in both eyes."""
    w, h = face.eye_size
    rx, ry = w * 0.70, h * 0.90
    light = -side  # undoes the mirroring of the left eye
    rim = mix(face.eyes[0], INK, 0.5)
    return (
        oval(0, 0, rx, ry, "url(#iris)", rim, 1.0)
        + oval(0, ry * 0.52, rx * 0.62, ry * 0.34, face.eyes[2], opacity=0.75)
        + oval(0, -ry * 0.05, rx * 0.42, ry * 0.46, rim)
        + oval(light * rx * 0.40, -ry * 0.42, rx * 0.36, ry * 0.30, "#ffffff")
        + oval(-light * rx * 0.42, ry * 0.42, rx * 0.18, ry * 0.15, "#ffffff", opacity=0.9)
    )


def eye(face: Face, side: int) -> str:
    """One eye around (0, 0), drawn with its outer corner at positive x."""
    (w, h), lash = face.eye_size, mix(hair_line(face), INK, 0.6)
    top = -h * (1 - 0.34 * face.lid)  # y of the upper lid
    inner, outer = (-w, -h * 0.05), (w, -h * 0.12)
    white = trace(
        *("M", inner, "C", (-w * 0.7, top * 1.25), (w * 0.6, top * 1.25), outer),
        *("C", (w * 0.8, h * 1.15), (-w * 0.6, h * 1.2), inner, "Z"),
    )
    lid = trace(
        *("M", (-w * 1.04, h * 0.02), "C", (-w * 0.8, top * 1.46), (w * 0.6, top * 1.5), (w * 1.05, -h * 0.18)),
        *("L", (w * 1.24, -h * 0.30), "Q", (w * 1.16, h * 0.08), (w * 0.98, h * 0.2)),
        *("C", (w * 0.62, top * 0.98), (-w * 0.66, top * 1.0), (-w * 1.04, h * 0.02), "Z"),
    )
    clip = f'<clipPath id="eye{side}"><path d="{white}"/></clipPath>'
    gaze = f"translate({side * face.gaze[0]:.2f},{face.gaze[1]:.2f})"
    return (
        clip
        + shape(white, "#fdfcff")
        + f'<g clip-path="url(#eye{side})">{group(iris(face, side), gaze)}</g>'
        + shape(lid, lash)
        + shape(trace("M", (-w * 0.3, h * 0.93), "Q", (w * 0.6, h * 0.98), (w * 0.86, h * 0.4)), line=lash, width=0.8)
    )


def eyes(face: Face) -> str:
    """Both eyes; the far one is a little narrower when the head turns."""
    art = ""
    for side in (-1, 1):
        squeeze = 1 + 0.035 * side * -face.turn
        place = f"translate({side * face.eye_x:.2f},{face.eye_y:.2f}) scale({side * squeeze:.3f},1)"
        art += group(eye(face, side), f"{place} rotate({-face.slant:.2f})")
    return art


def brows(face: Face) -> str:
    height, angle = face.brow
    brow = shape("M-5,1.2Q1,-2.8 7,0.6Q1,-0.6 -5,1.2Z", mix(face.hair[1], INK, 0.4))
    place = f"translate({face.eye_x:.2f},{face.eye_y - height:.2f}) rotate({-angle:.2f})"
    return mirrored(group(brow, place))


SHINE = (
    "M-25,-14Q-18,-30 -3,-32L-2,-26L-5,-29L-8,-23L-11,-27L-15,-19L-17,-23L-21,-13L-22,-17Z"
    "M4,-32Q11,-31 17,-26L15,-22L12,-25L9.5,-23L8,-28L5,-27Z"
)


def fringe_edge(face: Face) -> list:
    """Path steps along the fringe, left to right: hair falls straight from a valley and bends into its tip."""
    steps, points = [], face.fringe
    for k, (start, end) in enumerate(pairwise(points)):
        valley, tip = (start, end) if k % 2 == 0 else (end, start)
        bend = (0.75 * valley[0] + 0.25 * tip[0], 0.35 * valley[1] + 0.65 * tip[1])
        steps += ["Q", bend, end]
    return steps


def fringe(face: Face) -> str:
    """Scalp and fringe in one piece, with strands, and the shine across it."""
    first = face.fringe[0]
    crown = ("C", (33, -26), (22, -45), (0, -45), "C", (-22, -45), (-33, -26), first)
    art = shape(trace("M", first, *fringe_edge(face), *crown, "Z"), "url(#hair)", hair_line(face))
    whorl = (face.fringe[len(face.fringe) // 4 * 2][0] * 0.4, -41)
    strands = []
    for x, y in face.fringe[2:-1:2]:
        height, end = whorl[1] - y, x + (whorl[0] - x) * 0.5
        strands += ["M", (x, y), "Q", (x, y + height * 0.4), (end, y + height * 0.75)]
    art += shape(trace(*strands), line=mix(face.hair[1], face.hair[0], 0.2), width=0.9)
    return art + group(shape(SHINE, face.hair[2], opacity=0.7), f"scale({face.flip},1)")


def fringe_shadow(face: Face) -> str:
    first = face.fringe[0]
    area = trace("M", first, *fringe_edge(face), "L", (26, -30), "L", (-26, -30), "Z")
    return group(shape(area, face.skin[1], opacity=0.75), f"translate(0,2.6) scale({(face.width - 1) / 29:.3f},1)")


def side_locks(face: Face) -> str:
    """Hair that falls in front of the ears."""
    if face.side_locks == "none":
        return ""
    lock = {
        "short": "M27,-18C33,-8 34,8 28,22C27,14 26,7 21,-2Z",
        "long": "M27,-20C34,-8 35,16 29,38C28,44 25,42 25,36C26,22 26,8 21,-4Z",
        "hime": "M26,-20C33,-10 34,10 34,28L22,28C23,16 23,4 20,-5Z",
    }[face.side_locks]
    return mirrored(shape(lock, "url(#hair)", hair_line(face)))


def cat_ears(face: Face) -> str:
    ear = shape("M9,-40C14,-45 22,-49 31,-50C34,-42 34,-32 31,-22Z", "url(#hair)", hair_line(face))
    inside = "M16,-40C19,-43 23,-45.5 28.5,-46.5C30,-40 30,-36 28,-31Z"
    return mirrored(ear + shape(inside, mix(face.skin[2], "#ffffff", 0.3)))


def hairband(face: Face, line: str) -> str:
    arc = "M-30,-11C-27,-30 -13,-38.5 0,-38.5C13,-38.5 27,-30 30,-11"
    return shape(arc, line=line, width=5.2) + shape(arc, line=face.accent, width=3.6)


def ribbon(face: Face, line: str) -> str:
    bow = "M0,0C-4,-9 -12,-9 -13,-5V6C-12,9 -4,7 0,0ZM0,0C4,-9 12,-9 13,-5V6C12,9 4,7 0,0Z"
    knot = oval(0, 0, 3, 3.4, face.accent, line)
    return group(shape(bow, face.accent, line) + knot, "translate(20,-35) rotate(28)")


def clip(face: Face, line: str) -> str:
    bars = "M-5,-2H5M-5,2.4H5"
    art = shape(bars, line=line, width=3.6) + shape(bars, line=face.accent, width=2.2)
    return group(art, "translate(19,-13) rotate(-32)")


def flower(face: Face, line: str) -> str:
    angles = [k * math.tau / 5 for k in range(5)]
    petals = "".join(oval(4 * math.cos(a), 4 * math.sin(a), 3.4, 3.4, face.accent, line, 0.6) for a in angles)
    return group(petals + oval(0, 0, 2.4, 2.4, "#ffe27a", line, 0.6), "translate(25,-20)")


def accessory(face: Face) -> str:
    """What is worn over the hair; cat ears are behind it and glasses below the brows, drawn elsewhere."""
    worn = {"hairband": hairband, "ribbon": ribbon, "clip": clip, "flower": flower}
    if face.accessory not in worn:
        return ""
    return group(worn[face.accessory](face, mix(face.accent, INK, 0.5)), f"scale({face.flip},1)")


def glasses(face: Face) -> str:
    if face.accessory != "glasses":
        return ""
    (w, h), x, y = face.eye_size, face.eye_x, face.eye_y + 1.5
    lens = oval(x, y, w * 1.36, h * 1.12, "none", INK, 1.1)
    bridge = shape(trace("M", (w * 1.36 - x, y - 1), "Q", (0, y - 3), (x - w * 1.36, y - 1)), line=INK, width=1.1)
    return mirrored(lens) + bridge


def render_svg(face: Face) -> str:
    """The whole picture of `face`, back to front."""
    base, shade, _ = face.hair
    paints = (
        fade("sky", *face.backdrop)
        + fade("hair", mix(base, shade, 0.35), base, base, mix(base, shade, 0.55))
        + fade("back", mix(base, shade, 0.6), shade, mix(shade, INK, 0.15))
        + fade("iris", face.eyes[0], face.eyes[1], mix(face.eyes[1], face.eyes[2], 0.6))
    )
    slide = f"translate({face.turn:.2f},0)"
    features = group(cheeks(face) + nose(face) + mouth(face) + eyes(face), slide)
    over = group(brows(face) + glasses(face), slide)  # brows show through the fringe, as is the custom
    ears = cat_ears(face) if face.accessory == "cat ears" else ""
    front = head(face) + fringe_shadow(face) + features + side_locks(face) + fringe(face) + over + accessory(face)
    turn = f"rotate({face.tilt:.2f},0,{NECK_Y})"
    person = group(back_hair(face) + ears, turn) + body(face) + group(front, turn)
    place = f"translate({face.shift[0]:.2f},{face.shift[1]:.2f}) scale({face.scale:.3f})"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-50 -50 100 100">'
        '<g stroke-linejoin="round" stroke-linecap="round">'
        f"<defs>{paints}</defs>{backdrop(face)}{group(person, place)}</g></svg>"
    )


def eye_centres(face: Face) -> list[tuple[float, float]]:
    """Where the eyes on the left and the right of the picture are: (x, y) in fractions of its side."""
    angle, centres = math.radians(face.tilt), []
    for side in (-1, 1):
        x, y = side * face.eye_x + face.turn, face.eye_y - NECK_Y
        x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle) + NECK_Y
        centres.append(tuple((v * face.scale + shift + 50) / 100 for v, shift in zip((x, y), face.shift, strict=True)))
    return centres
