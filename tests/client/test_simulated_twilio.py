"""A client of a running stack dials by the simulator, where that plays Twilio."""

from dataclasses import replace

from parley.connection import SIMULATED_ACCOUNT, Addresses
from parley.settings import Settings

STACK = Addresses(
    database_url="postgresql://localhost/parley",
    codec_keys="",
    temporal_address="localhost:7233",
    ui_url="http://localhost:8080",
    simulator_url="http://localhost:8900",
    gateway_url="http://localhost:8700",
    twilio_auth_token="a-token-of-a-test",
)


def test_the_settings_name_the_simulators_account():
    settings = Settings().model_copy(update=STACK.twilio)
    assert (settings.twilio_account_sid, settings.twilio_base_url) == (
        SIMULATED_ACCOUNT,
        "http://localhost:8900/twilio",
    )
    assert settings.phone_public_url == "http://localhost:8700"
    assert "a-token-of-a-test" not in repr(settings)


def test_an_account_of_twilios_is_left_as_it_is():
    assert replace(STACK, twilio_auth_token=None).twilio == {}
