from decimal import Decimal

from parley.domain.costs import CostLine, Costs


def line(**fields: object) -> CostLine:
    given = {
        "provider": "openai",
        "model": "m",
        "action": "a",
        "simulated": False,
        "attempts": 1,
        "tokens_total": 10,
        "audio_seconds": 0,
        "confirmed_usd": "0.1",
        "uncertain_usd": "0",
        "energy_charged": 5,
    }
    return CostLine.model_validate(given | fields)


def test_totals_are_exact_sums():
    costs = Costs(lines=(line(), line(confirmed_usd="0.2", uncertain_usd="0.000001", energy_charged=3)))
    assert (costs.confirmed_usd, costs.uncertain_usd, costs.energy_charged) == (
        Decimal("0.3"),
        Decimal("0.000001"),
        8,
    )


def test_one_simulated_line_marks_the_whole_report():
    assert Costs(lines=(line(), line(simulated=True))).simulated
    assert not Costs(lines=(line(),)).simulated


def test_an_empty_report_costs_nothing():
    assert (Costs(lines=()).confirmed_usd, Costs(lines=()).energy_charged) == (0, 0)
