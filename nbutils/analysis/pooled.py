"""One model of all judgments of a file: strengths of the arms, at equal length, whoever was set against whom.

    logit P(a preferred to b on prompt p by judge j) = strength[j, a] - strength[j, b] + effect[a, p] - effect[b, p]
        + taste[j] * length difference of the two answers + place[j] * (1 where a stands first, -1 where second)

A Bradley-Terry model (1952) with covariates. A judge has one taste for length, whatever arms it compares: that tells
length from quality where one arm alone could not. Strengths differ between judges by as much as a penalty lets them;
effects of prompts are those of models that meet several others (a common baseline), and are penalised as well.
Both penalties are chosen by cross-validation. A tie counts as half a win.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nbutils.analysis.intervals import Numbers
from nbutils.analysis.length_control import expit
from nbutils.analysis.verdicts import CLUSTER, COMPARISON, ORDERS, PROMPT, SIDES, Rows, to_frame

RIDGE = 0.05
"""Penalty on strengths, tastes and places, as much as an item of weight 0.2 in a logistic fit: it keeps what separates
the verdicts finite, and makes the strengths of connected models sum to zero."""

PROMPT_PENALTIES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 1000.0)
JUDGE_PENALTIES = (0.1, 1.0, 10.0, 1000.0)
"""What cross-validation chooses among; 1,000 is (nearly) no effect at all."""

FOLDS = 5
MOST_VALIDATED = 20_000
"""Rows that cross-validation looks at: of more, a sample of whole prompts."""


class Penalties(NamedTuple):
    """Ridge penalties: half the penalty times the square is taken from the log likelihood. Inverse variances."""

    prompt: float = 0.5
    judge: float = 1.0


class Field(NamedTuple):
    """All judged orders as arrays of shape (n,), sorted by cluster; what an index means stands in the tuples.

    mine, theirs: the models' numbers; preference: for the first; prompt, judge: numbers; sizes: lengths of both
    answers, shape (n, 2), NaN where a log has none; first: 1 or -1, 0 where the order is not known. cluster_of: the
    question of each prompt, shape (prompts,). hubs: the models with effects of prompts.
    """

    preference: Numbers
    mine: Any
    theirs: Any
    prompt: Any
    judge: Any
    sizes: Numbers
    first: Numbers
    cluster_of: Any
    models: tuple[str, ...]
    judges: tuple[str, ...]
    hubs: tuple[int, ...]

    def part(self, use: Any) -> "Field":
        """Some of the rows, with all the numbers as they are."""
        return self._replace(**{name: getattr(self, name)[use] for name in self._fields[:7]})


def lay_out(rows: Rows) -> Field:
    """The judged orders of a file; one that was judged several times counts by its mean.

    Answers of other lengths to the same prompt are other answers, and stay apart.
    """
    frame = to_frame(rows)
    judged = frame[frame["preference"].notna()]
    keys = [*COMPARISON, *PROMPT, "order", "len_arm", "len_baseline"]
    found = judged.groupby(keys, sort=False, dropna=False, as_index=False).agg({"preference": "mean", CLUSTER: "first"})
    clusters = np.unique(found[CLUSTER].to_numpy(), return_inverse=True)[1]
    found = found.assign(cluster=clusters).sort_values("cluster", kind="stable")
    judges, models = (tuple(dict.fromkeys(np.ravel(found[names]))) for names in ("judge", SIDES))
    mine, theirs = (found[side].map({name: place for place, name in enumerate(models)}).to_numpy() for side in SIDES)
    prompt = found.groupby(PROMPT, sort=False, dropna=False).ngroup().to_numpy()
    cluster_of = np.zeros(prompt.max(initial=-1) + 1, int)
    cluster_of[prompt] = found["cluster"].to_numpy()
    return Field(
        found["preference"].to_numpy(float),
        mine,
        theirs,
        prompt,
        found["judge"].map({name: place for place, name in enumerate(judges)}).to_numpy(),
        found[["len_arm", "len_baseline"]].to_numpy(float),
        found["order"].map({ORDERS[0]: 1.0, ORDERS[1]: -1.0}).fillna(0.0).to_numpy(),
        cluster_of,
        tuple(map(str, models)),
        tuple(map(str, judges)),
        find_hubs(mine, theirs),
    )


def find_hubs(mine: Any, theirs: Any) -> tuple[int, ...]:
    """Numbers of the models that meet at least two others: what a prompt does to them shows in several comparisons."""
    met = {(a, b) for pair in set(zip(mine.tolist(), theirs.tolist(), strict=True)) for a, b in (pair, pair[::-1])}
    opponents = np.bincount([a for a, b in met if a != b], minlength=1)
    return tuple(np.flatnonzero(opponents >= 2).tolist())


def components_of(field: Field) -> Any:
    """The number of each model's component: where no chain of judged pairs leads from one to another, nothing compares
    them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(field.models)
    links = coo_array((np.ones(len(field.mine)), (field.mine, field.theirs)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def difference_of(field: Field, scale: str) -> Numbers:
    """tanh of the length difference over its root mean square, as in `length_control`; 0 where a length is missing.

    scale: "difference", "log_ratio", or "none": no length in the model, which then gives rates as judged.
    """
    if scale == "none":
        return np.zeros(len(field.preference))
    mine, theirs = (field.sizes if scale == "difference" else np.log(np.maximum(field.sizes, 1))).T
    apart = np.nan_to_num(mine - theirs)
    return np.asarray(np.tanh(apart / (np.sqrt(np.mean(apart**2)) or 1.0)))


class Layout(NamedTuple):
    """The model's columns: X for coefficients (n, k), Z for effects of prompts (n, prompts * hubs), and penalties (k,).

    The coefficients are strengths, then each judge's deviations from them, tastes for length and for the first place.
    """

    columns: Any
    effects: Any
    penalties: Numbers
    hubs: int


def make_layout(field: Field, scale: str, penalties: Penalties) -> Layout:
    """Lay out the columns as sparse matrices; a single judge has no deviations."""
    from scipy.sparse import csr_array

    n, count, judges = len(field.preference), len(field.models), len(field.judges)
    places, signs = np.arange(n), np.ones(n)
    blocks = [(field.mine, signs), (field.theirs, -signs)]
    own = count if judges > 1 else 0
    if own:
        blocks += [(count + field.judge * count + side, sign) for side, sign in blocks]
    taste = count + own * judges
    blocks += [(taste + field.judge, difference_of(field, scale)), (taste + judges + field.judge, field.first)]
    width = taste + 2 * judges
    columns, entered = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    matrix = csr_array((entered, (np.tile(places, len(blocks)), columns)), shape=(n, width))
    hubs, numbers = len(field.hubs), np.full(count, -1)
    numbers[list(field.hubs)] = np.arange(hubs)
    rows, places_of, values = [], [], []
    for side, sign in ((numbers[field.mine], 1.0), (numbers[field.theirs], -1.0)):
        use = side >= 0
        rows.append(places[use])
        places_of.append((field.prompt * hubs + side)[use])
        values.append(np.full(int(use.sum()), sign))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(places_of)))
    effects = csr_array(entries, shape=(n, len(field.cluster_of) * hubs))
    penalty = np.full(width, RIDGE)
    penalty[count:taste] = penalties.judge
    if own:  # a deviation must not be cheaper than what the judges share
        penalty[:count] *= min(1.0, penalties.judge / 10)
    return Layout(matrix, effects, penalty, hubs)


class Pooled(NamedTuple):
    """A fitted model: coefficients (k,), effects (prompts, hubs), and what intervals need.

    moves: how each effect answers to the coefficients, (prompts, hubs, k); left_out: what leaving out each cluster does
    to the coefficients, (clusters, k); chances: the fitted preference of each row, (n,).
    """

    field: Field
    scale: str
    penalties: Penalties
    coefficients: Numbers
    effects: Numbers
    moves: Numbers
    left_out: Numbers
    chances: Numbers

    @property
    def tastes(self) -> Numbers:
        """Each judge's taste for length, in logits for one unit of `difference_of`."""
        judges = len(self.field.judges)
        return self.coefficients[-2 * judges : -judges]

    @property
    def places(self) -> Numbers:
        """Each judge's taste for the first place, in logits."""
        return self.coefficients[-len(self.field.judges) :]


def fit(field: Field, scale: str = "log_ratio", penalties: Penalties | None = None) -> Pooled:
    """The penalised maximum likelihood, by Newton's method with the effects of prompts eliminated prompt by prompt.

    penalties: chosen by cross-validation where none are given. scale: as of `difference_of`.
    """
    chosen = penalties or choose_penalties(field, scale)
    layout = make_layout(field, scale, chosen)
    coefficients, effects, moves, schur = _maximise(field, layout, chosen.prompt)
    left_out = _leave_out(field, layout, coefficients, effects, moves, schur)
    chances = expit(layout.columns @ coefficients + layout.effects @ effects.ravel())
    return Pooled(field, scale, chosen, coefficients, effects, moves, left_out, chances)


def _maximise(field: Field, layout: Layout, penalty: float, start: Any = None) -> tuple[Any, ...]:
    """Coefficients, effects, how effects answer to coefficients, and the information on the coefficients."""
    width, prompts, hubs = layout.columns.shape[1], len(field.cluster_of), layout.hubs
    found, effects = start or (np.zeros(width), np.zeros((prompts, hubs)))
    transposed, back = layout.columns.T.tocsr(), layout.effects.T.tocsr()
    for _ in range(100):
        chance = expit(layout.columns @ found + layout.effects @ effects.ravel())
        apart, weight = field.preference - chance, chance * (1 - chance)
        score = transposed @ apart - layout.penalties * found
        own_score = (back @ apart).reshape(prompts, hubs) - penalty * effects
        crossed, own = _cross(layout, weight, penalty, prompts)
        moves = -np.linalg.solve(own, crossed)  # (prompts, hubs, width)
        information = (transposed @ layout.columns.multiply(weight[:, None])).toarray() + np.diag(layout.penalties)
        schur = information + np.einsum("phk,phl->kl", crossed, moves)
        step = np.linalg.solve(schur, score + np.einsum("phk,ph->k", moves, own_score))
        own_step = np.linalg.solve(own, own_score[:, :, None])[:, :, 0] + moves @ step
        largest = max(np.abs(step).max(initial=0), np.abs(own_step).max(initial=0))
        # Separated verdicts make the first steps overshoot.
        shrink = min(1.0, 2.0 / max(largest, 1e-12))
        found, effects = found + shrink * step, effects + shrink * own_step
        if largest < 1e-7:
            break
    return found, effects, moves, schur


def _cross(layout: Layout, weight: Numbers, penalty: float, prompts: int) -> tuple[Numbers, Numbers]:
    """The information that effects share with coefficients, (prompts, hubs, k), and their own, (p, hubs, hubs)."""
    hubs, width = layout.hubs, layout.columns.shape[1]
    weighted = layout.effects.multiply(weight[:, None]).tocsr().T
    crossed = (weighted @ layout.columns).toarray().reshape(prompts, hubs, width)
    between = (weighted @ layout.effects).tocoo()
    own = np.zeros((prompts, hubs, hubs))
    row, column = between.coords
    np.add.at(own, (row // max(hubs, 1), row % max(hubs, 1), column % max(hubs, 1)), between.data)
    return crossed, np.asarray(own + penalty * np.eye(hubs))


JACKKNIFED = 2000
"""Clusters up to which each is left out; of more the sandwich says the same (within 1% at 500)."""


def _leave_out(
    field: Field, layout: Layout, found: Numbers, effects: Numbers, moves: Numbers, schur: Numbers
) -> Numbers:
    """What leaving out each cluster that is judged does to the coefficients, by one Newton step: shape (clusters, k).

    The linearised cluster jackknife of `length_control`, with the effects of a cluster's prompts gone with it.
    """
    from scipy.sparse import csr_array

    chance = expit(layout.columns @ found + layout.effects @ effects.ravel())
    apart, weight = field.preference - chance, chance * (1 - chance)
    cluster, starts = np.unique(field.cluster_of[field.prompt], return_index=True)
    clusters, ends = len(cluster), np.append(starts[1:], len(apart))
    gather = csr_array((apart, np.arange(len(apart)), np.append(starts, len(apart))), shape=(clusters, len(apart)))
    scores = (gather @ layout.columns).toarray()
    if clusters > JACKKNIFED:
        return np.asarray(-np.linalg.solve(schur, scores.T).T * np.sqrt(clusters / (clusters - 1)))
    crossed, _ = _cross(layout, weight, 0.0, len(moves))
    changes = np.zeros_like(scores)
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        mine, prompts = layout.columns[start:end].toarray(), np.unique(field.prompt[start:end])
        own = (mine.T * weight[start:end]) @ mine
        own += np.einsum("phk,phl->kl", crossed[prompts], moves[prompts])
        changes[number] = -np.linalg.solve(schur - own, scores[number])
    return changes


def choose_penalties(field: Field, scale: str = "log_ratio", seed: int = 0) -> Penalties:
    """The penalties that predict judgments best that were left out: first that of prompts, then that of judges.

    What is left out is a prompt of a comparison with all its orders, a fifth of them at a time: whole prompts could say
    nothing of a prompt's effect.
    """
    known = sample(field, seed)
    prompt = Penalties().prompt
    if field.hubs:
        prompt = _descend(PROMPT_PENALTIES, lambda each: validate(known, scale, Penalties(each), seed))
    if len(field.judges) == 1:
        return Penalties(prompt)
    judge = _descend(JUDGE_PENALTIES, lambda each: validate(known, scale, Penalties(prompt, each), seed))
    return Penalties(prompt, judge)


def _descend(grid: Sequence[float], loss: Callable[[float], float]) -> float:
    """The first value of an ordered grid, from its middle on, whose neighbours have no smaller loss."""
    found, place = dict[int, float](), len(grid) // 2
    while True:
        around = [each for each in (place - 1, place, place + 1) if 0 <= each < len(grid)]
        found |= {each: loss(grid[each]) for each in around if each not in found}
        best = min(around, key=lambda each: found[each])
        if best == place:
            return grid[place]
        place = best


def sample(field: Field, seed: int = 0) -> Field:
    """All rows, or those of as many prompts, drawn at random, as hold MOST_VALIDATED rows."""
    n, prompts = len(field.preference), len(field.cluster_of)
    if n <= MOST_VALIDATED:
        return field
    kept = np.random.default_rng(seed).permutation(prompts) < prompts * MOST_VALIDATED / n
    return field.part(kept[field.prompt])


def validate(field: Field, scale: str, penalties: Penalties, seed: int = 0) -> float:
    """Mean log loss of the judgments that were left out, in nats."""
    layout = make_layout(field, scale, penalties)
    cells = np.unique(np.column_stack([field.prompt, field.mine, field.theirs]), axis=0, return_inverse=True)[1].ravel()
    folds = np.random.default_rng(seed).permutation(cells.max() + 1)[cells] % FOLDS
    loss, start = 0.0, None
    for fold in range(min(FOLDS, int(cells.max()) + 1)):
        kept, left = folds != fold, folds == fold
        mine = layout._replace(columns=layout.columns[kept], effects=layout.effects[kept])
        found, effects, *_ = _maximise(field.part(kept), mine, penalties.prompt, start)
        start = (found, effects)
        logits = layout.columns[left] @ found + layout.effects[left] @ effects.ravel()
        loss += float((np.logaddexp(0, logits) - field.preference[left] * logits).sum())
    return loss / len(folds)
