import sys
import unicodedata

import pytest

from parley.domain.auto_analyze.labels import composed, duplicates, normalized


class TestSpelling:
    @pytest.mark.parametrize(
        ("label", "stored"),
        [
            ("Billing_Dispute!", "billing dispute"),
            ("  billing \t\n dispute ", "billing dispute"),
            ("'billing dispute'", "billing dispute"),
            ("“Billing” — dispute…", "billing dispute"),
            ("- billing dispute -", "billing dispute"),
            ("sign-up / log-in", "sign-up / log-in"),
            ("terms & conditions", "terms & conditions"),
            ("can’t log in", "can't log in"),
            ("caf\u0065\u0301", "caf\u00e9"),
            ("ＢＩＬＬＩＮＧ dispute", "billing dispute"),
            ("हिन्दी बिल", "हिन्दी बिल"),
            ("kündigung: straße", "kündigung straße"),
            ("账单争议", "账单争议"),
            ("2fa code", "2fa code"),
            ("refund\u0000\ud800", "refund"),
            ("<b>refund</b>", "b refund /b"),
            ("🙂", "🙂"),
            ("C++ Help", "c++ help"),
            ("C# help", "c# help"),
            ("C help", "c help"),
            ("50% off", "50% off"),
            ("50 off", "50 off"),
            ("$ refund", "$ refund"),
            ("€5 credit", "€5 credit"),
            (".NET setup", ".net setup"),
            ("net setup.", "net setup"),
            ("Node.js setup...", "node.js setup"),
            ("version 2.0", "version 2.0"),
            ("\u2764\ufe0f thanks", "\u2764 thanks"),
            ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fd"),
            ("wi\u2011fi down", "wi-fi down"),
            ("wi\u2010fi down", "wi-fi down"),
            ("re\u00adfund", "refund"),
            ("\u0130ade talebi", "iade talebi"),
            ("**refund**", "refund"),
            ("`refund`", "refund"),
            ("...", ""),
            ("-/&'", ""),
            ("", ""),
        ],
        ids=ascii,
    )
    def test_spellings_of_a_label_are_normalized_to_one(self, label: str, stored: str):
        assert normalized(label) == stored

    def test_a_normalized_label_stays_the_same(self):
        """Otherwise a reply of conflict resolution could not be matched with it."""
        assigned = (chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) != "Cn")
        for character in assigned:
            once = normalized(f"a{character}b")
            assert normalized(once) == once, ascii(character)


def test_duplicates_are_labels_with_the_name_of_another():
    assert duplicates({"refund": "refund", "refunds": "refund", "money back": "refund"}) == 2


class TestComposition:
    def test_a_label_is_mapped_by_both_levels(self):
        first = {"a": "b", "b": "b", "c": "c", "d": "d"}
        assert composed(first, {"b": "c", "d": "e"}) == {"a": "c", "b": "c", "c": "c", "d": "e"}

    def test_an_empty_level_changes_nothing(self):
        assert composed({"a": "b"}, {}) == {"a": "b"}

    def test_a_level_is_applied_once(self):
        """Two labels that are mapped to each other on one level are exchanged once."""
        assert composed({"a": "a", "b": "b"}, {"a": "b", "b": "a"}) == {"a": "b", "b": "a"}
