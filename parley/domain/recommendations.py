"""Recommendations on a workspace's costs and errors: named rules over its figures. Pure.

A rule names its figures and says what to do. It states a saving only if that follows from what was paid: the same
tokens at another model's rates, or attempts that repeated an answer already paid for.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from parley.domain.model import Model
from parley.domain.pricing import Rates, cost
from parley.domain.reports import Span, Spend, UserSpend, share
from parley.domain.requests import Usage

# With fewer attempts than this, the rules ignore a model or a provider.
ENOUGH = 20
# A cheaper model must save at least this share of the present model's cost.
WORTH_MOVING = Decimal("0.2")
DOMINANT_SHARE = Decimal("0.5")
DOWNGRADE_SAVES = Decimal("0.5")
ENOUGH_REPEATS = 5
# Answers that repeat within this time could have come from the cache under its default time to live.
REPEAT_SECONDS = 3600
TOO_MANY_ERRORS = 0.1
TOO_UNCERTAIN = 0.05
LONG_PROMPT, LONG_PROMPT_RATIO = 4000, 20
HEAVY_USER, ENOUGH_USERS = 0.5, 5


class Serving(Model):
    """How one model served one kind of work. Tokens and `paid_usd` are of the attempts whose tokens are known.

    `rates`: those of the latest such attempt. `spent_usd`: confirmed and uncertain, of all its attempts.
    """

    action: str
    provider: str
    model: str
    simulated: bool
    ended: int
    errors: int
    attempts: int = 0
    tokens_prompt: int = 0
    tokens_completion: int = 0
    paid_usd: Decimal = Decimal(0)
    spent_usd: Decimal = Decimal(0)
    uncertain_usd: Decimal = Decimal(0)
    rates: Rates | None = None

    @property
    def name(self) -> str:
        return f"{self.provider} {self.model}"

    @property
    def error_rate(self) -> float:
        return self.errors / self.ended if self.ended else 0.0


class Repetition(Model):
    """How often one action of `Generate` repeated a recent request. `hits`: answers from the cache.

    `repeats` and `repeats_usd` count what a cache would have answered at least.
    """

    action: str
    requests: int
    hits: int
    repeats: int
    repeats_usd: Decimal
    simulated: bool


class Evidence(Model):
    """What the rules look at. `users`: the top ones; `user_count` and `total` are of all."""

    span: Span
    servings: tuple[Serving, ...] = ()
    repetitions: tuple[Repetition, ...] = ()
    users: tuple[UserSpend, ...] = ()
    user_count: int = 0
    total: Spend = Spend()


class Recommendation(Model):
    """What a rule found. `saves_usd`: over the same span of time, if it is known; `simulated`: on figures of the
    simulator, which measure Parley, not a model."""

    rule: str
    subject: str
    seen: str
    advice: str
    saves_usd: Decimal | None = None
    simulated: bool = False


def recommend(evidence: Evidence) -> list[Recommendation]:
    """The recommendations of all rules, the largest savings first."""
    found = [made for rule in RULES for made in rule(evidence)]
    return sorted(found, key=lambda made: made.saves_usd or Decimal(0), reverse=True)


def cheaper_model(evidence: Evidence) -> Iterable[Recommendation]:
    """A kind of work which a cheaper model serves as well, with no more errors than the present one."""
    for current, move in _moves(evidence.servings):
        cheaper = move.to
        yield Recommendation(
            rule="cheaper-model",
            subject=current.action,
            seen=f"{current.attempts} attempts of {current.name} cost ${current.paid_usd} with {_errors(current)}; "
            f"{cheaper.name} served {cheaper.ended} with {_errors(cheaper)}",
            advice=f"put {cheaper.name} before {current.name}; compare the answers' quality in an experiment first",
            saves_usd=move.saves_usd,
            simulated=current.simulated,
        )


def downgrade_saves(evidence: Evidence) -> Iterable[Recommendation]:
    """One model causes most of the spending, and a much cheaper one serves other work of the workspace."""
    moved = [current for current, _ in _moves(evidence.servings)]
    total = sum((serving.spent_usd for serving in evidence.servings), Decimal(0))
    models = _merged(evidence.servings, _model)
    for current in _merged([serving for serving in evidence.servings if serving not in moved], _model):
        move = _best_move(current, models, DOWNGRADE_SAVES)
        if move and current.spent_usd >= DOMINANT_SHARE * total:
            yield Recommendation(
                rule="downgrade-saves",
                subject=current.name,
                seen=f"{current.name} takes {share(current.spent_usd, total):.0%} of all that is spent, "
                f"while {move.to.name} serves other work with {_errors(move.to)}",
                advice=f"try {move.to.name} for a tier or an arm of an experiment; the saving is for all of it",
                saves_usd=move.saves_usd,
                simulated=current.simulated,
            )


def enable_cache(evidence: Evidence) -> Iterable[Recommendation]:
    """Prompts repeat, and no answer ever comes from the cache."""
    for seen in evidence.repetitions:
        if seen.repeats >= ENOUGH_REPEATS and not seen.hits:
            yield Recommendation(
                rule="enable-cache",
                subject=seen.action,
                seen=f"{seen.repeats} of {seen.requests} requests repeated one of the hour before; "
                "no request was answered from the cache",
                advice=f'set cache = "exact" for [action.{seen.action}], if the same answer may be given twice',
                saves_usd=seen.repeats_usd,
                simulated=seen.simulated,
            )


def high_error_provider(evidence: Evidence) -> Iterable[Recommendation]:
    """A provider whose attempts often end without a reply."""
    for seen in _merged(evidence.servings, lambda serving: (serving.provider, serving.simulated)):
        if seen.ended >= ENOUGH and seen.error_rate >= TOO_MANY_ERRORS:
            yield Recommendation(
                rule="high-error-provider",
                subject=seen.provider,
                seen=f"{_errors(seen)} in {seen.ended} attempts",
                advice="see `parley report models` for the kinds of errors; let another provider's routes come first",
                simulated=seen.simulated,
            )


def uncertain_spend(evidence: Evidence) -> Iterable[Recommendation]:
    """A large part of the spending is uncertain."""
    for seen in _merged(evidence.servings, lambda serving: serving.simulated):
        part = share(seen.uncertain_usd, seen.spent_usd)
        if seen.ended >= ENOUGH and part is not None and part >= TOO_UNCERTAIN:
            yield Recommendation(
                rule="uncertain-spend",
                subject="lost and unanswered attempts",
                seen=f"up to ${seen.uncertain_usd} of at most ${seen.spent_usd} ({part:.0%})",
                advice="look for workers that die and for timeouts shorter than the provider's answers; "
                "compare with the provider's list: `parley ledger audit --billed FILE`",
                simulated=seen.simulated,
            )


def long_prompts(evidence: Evidence) -> Iterable[Recommendation]:
    """Requests that send far more than they get back."""
    generated = {seen.action for seen in evidence.repetitions}
    for seen in _merged(evidence.servings, lambda serving: (serving.action, serving.simulated)):
        prompt = seen.tokens_prompt // max(seen.attempts, 1)
        reply = max(seen.tokens_completion // max(seen.attempts, 1), 1)
        is_long = prompt >= LONG_PROMPT and prompt >= LONG_PROMPT_RATIO * reply
        if seen.action in generated and seen.attempts >= ENOUGH and is_long:
            yield Recommendation(
                rule="long-prompts",
                subject=seen.action,
                seen=f"a prompt has {prompt:,} tokens on average, its answer {reply:,}",
                advice=f"set condense_above_tokens for [action.{seen.action}], or shorten its template",
                simulated=seen.simulated,
            )


def user_concentration(evidence: Evidence) -> Iterable[Recommendation]:
    """One user causes most of the costs."""
    total = evidence.total
    for user in evidence.users[:1]:
        part = share(_spent(user), _spent(total))
        if evidence.user_count >= ENOUGH_USERS and part is not None and part >= HEAVY_USER:
            yield Recommendation(
                rule="user-concentration",
                subject=user.user_id,
                seen=f"one of {evidence.user_count} users causes {part:.0%} of the costs",
                advice="check whether the use is intended and whether the tier's energy fits it",
                simulated=user.simulated_attempts == user.attempts,
            )


RULES: tuple[Callable[[Evidence], Iterable[Recommendation]], ...] = (
    cheaper_model,
    downgrade_saves,
    enable_cache,
    high_error_provider,
    uncertain_spend,
    long_prompts,
    user_concentration,
)


class Move(Model):
    """The model that could have served, and the saving in USD."""

    to: Serving
    saves_usd: Decimal


def _moves(servings: Sequence[Serving]) -> list[tuple[Serving, Move]]:
    """Each serving that another model of the same action could replace, with the cheapest replacement."""
    moves = [
        (current, _best_move(current, [rival for rival in servings if rival.action == current.action], WORTH_MOVING))
        for current in servings
    ]
    return [(current, move) for current, move in moves if move]


def _best_move(current: Serving, rivals: Sequence[Serving], worth: Decimal) -> Move | None:
    """The rival that saves the most, if that is at least the share `worth` of the present model's cost."""
    able = [rival for rival in rivals if current.attempts >= ENOUGH and _serves_as_well(rival, current)]
    moves = [Move(to=rival, saves_usd=_saving(current, rival.rates)) for rival in able if rival.rates]
    best = max(moves, key=lambda move: move.saves_usd, default=None)
    return best if best and best.saves_usd > 0 and best.saves_usd >= worth * current.paid_usd else None


def _serves_as_well(rival: Serving, current: Serving) -> bool:
    """Another model, seen often enough, with no higher error rate; the simulator says nothing about a real one."""
    other = rival.name != current.name and rival.simulated == current.simulated
    return other and rival.ended >= ENOUGH and rival.error_rate <= current.error_rate


def _saving(current: Serving, rates: Rates) -> Decimal:
    """The saving in USD for the same tokens at other rates, without a prompt cache and with alike tokenisers."""
    return current.paid_usd - cost(
        Usage(input_tokens=current.tokens_prompt, output_tokens=current.tokens_completion), rates
    )


def _merged(servings: Sequence[Serving], key: Callable[[Serving], object]) -> list[Serving]:
    """Servings summed by a key; names and rates are those of the first."""
    groups: defaultdict[object, list[Serving]] = defaultdict(list)
    for serving in servings:
        groups[key(serving)].append(serving)
    return [_sum(group) for group in groups.values()]


def _sum(group: Sequence[Serving]) -> Serving:
    return group[0].model_copy(update={name: sum(getattr(one, name) for one in group) for name in SUMS})


SUMS = ("ended", "errors", "attempts", "tokens_prompt", "tokens_completion", "paid_usd", "spent_usd", "uncertain_usd")


def _model(serving: Serving) -> object:
    return serving.name, serving.simulated


def _errors(seen: Serving) -> str:
    return f"{seen.error_rate:.1%} errors"


def _spent(spend: Spend) -> Decimal:
    """The upper bound."""
    return spend.confirmed_usd + spend.uncertain_usd
