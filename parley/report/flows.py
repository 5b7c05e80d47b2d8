"""The drawings of a labelling run as numbers: the treemap of intents, the flow of sessions, new labels by round."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from parley.domain.auto_analyze.contract import LabelCount
from parley.domain.auto_analyze.overview import Flow, NewLabels
from parley.domain.chat import Containment
from parley.domain.text import shorten

MOST_TILES, MOST_BARS = 30, 60
MOST_INTENTS, MOST_LOCATIONS = 10, 8
OTHERS = "others"
UNLABELLED = "without a location"
# The flow: where the columns of nodes are, and the room between two nodes of a column.
FLOW_WIDTH, NODE_WIDTH, FLOW_GAP = 1000, 12, 20
COLUMNS = (240, 520, 770)
ROW_HEIGHT, LEAST_HEIGHT = 42, 300
NAME_CHARACTERS = 30
# About the width of a character of a tile's name, and the height of its line, in units of the treemap.
CHARACTER, LINE = 10.0, 20


@dataclass(frozen=True)
class Tile:
    """A rectangle of the treemap. `name`: as much of the label as it has room for. `is_rest`: of all other labels."""

    x: float
    y: float
    width: float
    height: float
    label: str
    name: str
    sessions: int
    is_rest: bool = False


@dataclass(frozen=True)
class Node:
    """A node of the flow, with its name and the side of the name: `end` is left of it, `start` right."""

    x: float
    y: float
    height: float
    name: str
    label: str
    sessions: int
    kind: str
    anchor: str


@dataclass(frozen=True)
class Ribbon:
    """A stream of sessions between two nodes: a path, its width and its containment."""

    path: str
    width: float
    kind: str
    title: str


@dataclass(frozen=True)
class Drawing:
    """The flow as a whole."""

    height: float
    nodes: tuple[Node, ...]
    ribbons: tuple[Ribbon, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of new labels, of one round or of several: from 0 to 1000 across, and up to 100 high."""

    x: float
    width: float
    height: float
    title: str


def treemap(labels: Sequence[LabelCount], width: float, height: float) -> tuple[Tile, ...]:
    """The labels as areas, the largest first; beyond `MOST_TILES` one area is for all others."""
    shown = [(line.label, line.sessions, False) for line in labels[:MOST_TILES]]
    if rest := sum(line.sessions for line in labels[MOST_TILES:]):
        shown.append((f"{len(labels) - MOST_TILES} {OTHERS}", rest, True))
    whole = sum(count for _, count, _ in shown)
    if not whole:
        return ()
    areas = [count / whole * width * height for _, count, _ in shown]
    boxes = _squares(areas, 0, 0, width, height)
    return tuple(
        Tile(*box, label=label, name=_fitting(label, box), sessions=count, is_rest=is_rest)
        for box, (label, count, is_rest) in zip(boxes, shown, strict=True)
    )


def flow(flows: Sequence[Flow]) -> Drawing:
    """Intents on the left, containments in the middle, drop-off locations on the right."""
    if not flows:
        return Drawing(0, (), ())
    whole = sum(one.sessions for one in flows)
    intents = _names(((one.intent, one.sessions) for one in flows), MOST_INTENTS)
    dropped = [one for one in flows if one.containment is Containment.DROP_OFF]
    left = ((one.drop_off_location or UNLABELLED, one.sessions) for one in dropped)
    locations = _names(left, MOST_LOCATIONS)
    first: Counter[tuple[str, str]] = Counter()
    second: Counter[tuple[str, str]] = Counter()
    for one in flows:
        first[intents[one.intent], one.containment.value] += one.sessions
    for one in dropped:
        second[Containment.DROP_OFF.value, locations[one.drop_off_location or UNLABELLED]] += one.sessions
    return _drawing(whole, first, second)


def bars(found: Sequence[NewLabels]) -> tuple[Bar, ...]:
    """New labels by round, the discovery first; of many rounds several share a bar."""
    if not found:
        return ()
    last = found[-1].round
    size = max(-(-last // MOST_BARS), 1)
    counts: Counter[int] = Counter()
    for one in found:
        counts[(one.round - 1) // size if one.round else -1] += one.labels
    places = [-1, *range(-(-last // size))]
    most, step = max(counts.values()), 1000 / len(places)
    return tuple(
        Bar(
            x=round(number * step, 1),
            width=round(max(step - 3, 1), 1),
            height=round(counts[place] / most * 100, 1),
            title=f"{_rounds(place, size, last)}: {counts[place]:,} new labels",
        )
        for number, place in enumerate(places)
    )


def _rounds(place: int, size: int, last: int) -> str:
    if place < 0:
        return "Discovery"
    begin, end = place * size + 1, min(place * size + size, last)
    return f"Round {begin}" if begin == end else f"Rounds {begin} to {end}"


def _names(counted: Iterator[tuple[str, int]], most: int) -> dict[str, str]:
    """The node of each name: its own for the most frequent ones, one for all others."""
    totals: Counter[str] = Counter()
    for name, sessions in counted:
        totals[name] += sessions
    shown = {name for name, _ in totals.most_common(most)}
    rest = f"{len(totals) - most} {OTHERS}"
    return {name: name if name in shown else rest for name in totals}


def _drawing(whole: int, first: Counter[tuple[str, str]], second: Counter[tuple[str, str]]) -> Drawing:
    columns = [_totals(first, 0), _totals(first, 1), _totals(second, 1)]
    rows = max(map(len, columns))
    height = max(LEAST_HEIGHT, rows * ROW_HEIGHT)
    scale = (height - (rows + 1) * FLOW_GAP) / whole
    nodes = [list(_column(at, totals, scale, height)) for at, totals in enumerate(columns)]
    ribbons = [*_ribbons(first, nodes[0], nodes[1], scale), *_ribbons(second, nodes[1], nodes[2], scale)]
    return Drawing(height, tuple(chain.from_iterable(nodes)), tuple(ribbons))


def _totals(links: Counter[tuple[str, str]], side: int) -> list[tuple[str, int]]:
    totals: Counter[str] = Counter()
    for ends, sessions in links.items():
        totals[ends[side]] += sessions
    return sorted(totals.items(), key=lambda one: (one[0].endswith(f" {OTHERS}"), -one[1], one[0]))


def _column(at: int, totals: Sequence[tuple[str, int]], scale: float, height: float) -> Iterator[Node]:
    used = sum(count for _, count in totals) * scale + (len(totals) - 1) * FLOW_GAP
    y = (height - used) / 2
    for name, count in totals:
        kind = name if at == 1 else ""
        anchor = "end" if at == 0 else "start"
        short = shorten(name, NAME_CHARACTERS)
        yield Node(COLUMNS[at], round(y, 1), round(max(count * scale, 1), 1), short, name, count, kind, anchor)
        y += count * scale + FLOW_GAP


def _ribbons(
    links: Counter[tuple[str, str]], left: Sequence[Node], right: Sequence[Node], scale: float
) -> Iterator[Ribbon]:
    """The streams between two columns: at each node in the order of the nodes at their other ends."""
    leaves, arrives = {node.label: node.y for node in left}, {node.label: node.y for node in right}
    places = {node.label: number for number, node in enumerate(right)}
    for source in left:
        own = sorted((target for begin, target in links if begin == source.label), key=lambda name: places[name])
        for target in own:
            count = links[source.label, target]
            wide = count * scale
            start, end = leaves[source.label] + wide / 2, arrives[target] + wide / 2
            leaves[source.label] += wide
            arrives[target] += wide
            x0 = source.x + NODE_WIDTH
            x1 = right[0].x
            middle = (x0 + x1) / 2
            path = f"M{x0} {start:.1f}C{middle} {start:.1f} {middle} {end:.1f} {x1} {end:.1f}"
            kind = source.kind or target
            yield Ribbon(path, round(max(wide, 0.6), 1), kind, f"{source.label} → {target}: {count:,} sessions")


def _fitting(label: str, box: tuple[float, float, float, float]) -> str:
    """As much of a name as a tile has room for; empty where it has none."""
    room = int((box[2] - 12) / CHARACTER)
    return "" if room < 3 or box[3] < LINE + 6 else shorten(label, room)


Box = tuple[float, float, float, float]


def _squares(areas: Sequence[float], x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Rectangles of these areas, which are as near to squares as they can be (Bruls, Huizing, van Wijk)."""
    rest = list(areas)
    while rest:
        side = min(width, height)
        count = _row_length(rest, side)
        row, rest = rest[:count], rest[count:]
        depth = min(sum(row) / side, max(width, height)) if side else 0
        at = 0.0
        for area in row:
            length = area / depth if depth else 0
            box = (x, y + at, depth, length) if width >= height else (x + at, y, length, depth)
            yield tuple(round(value, 1) for value in box)  # pyright: ignore[reportReturnType] - of four
            at += length
        if width >= height:
            x, width = x + depth, width - depth
        else:
            y, height = y + depth, height - depth


def _row_length(areas: Sequence[float], side: float) -> int:
    """How many areas form the next row: as long as its worst rectangle becomes no longer."""
    best = float("inf")
    for count in range(1, len(areas) + 1):
        row = areas[:count]
        whole = sum(row)
        worst = max(side**2 * max(row) / whole**2, whole**2 / (side**2 * min(row)))
        if worst > best:
            return count - 1
        best = worst
    return len(areas)
