"""Attestations: two independent implementations verify them, and both reject any change."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]

from stagezero.errors import AttestationError
from stagezero.ledger import SigningKey, VerifyKey, canonical
from stagezero.ledger.attestation import PAYLOAD_TYPE, make_statement, pae, sign_statement, verify_envelope

AUDITOR = SigningKey.from_seed(b"a" * 32, "auditor.example")
LAB = SigningKey.from_seed(b"l" * 32, "lab.example")
SHA = hashlib.sha256(b"model").hexdigest()
STATEMENT = make_statement(
    {"model": SHA}, "https://example.org/disclosure/v1", {"passed": ["abstention"], "bits": 8.25, "note": "ä", "n": 12}
)
ENVELOPE = sign_statement(STATEMENT, AUDITOR)


def securesystemslib_key(key: VerifyKey) -> Key:
    return SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.raw.hex()})


def others_verify(envelope: dict[str, Any]) -> bool:
    """Return whether independent libraries accept an envelope.

    securesystemslib verifies its signature and in-toto's library validates its statement.
    """
    try:
        parsed = Envelope.from_dict(copy.deepcopy(envelope))
        parsed.verify([securesystemslib_key(AUDITOR.verify_key)], 1)
        statement = Statement.copy_from_pb(json_format.Parse(parsed.payload, statement_pb2.Statement()))
        statement.validate()
    except Exception:
        return False
    return parsed.payload_type == PAYLOAD_TYPE


def verifies(envelope: Any) -> bool:
    """Return whether stagezero accepts an envelope."""
    try:
        verify_envelope(envelope, [AUDITOR.verify_key])
    except AttestationError:
        return False
    return True


def test_independent_implementations_verify_an_attestation() -> None:
    assert others_verify(ENVELOPE)
    parsed = Envelope.from_dict(copy.deepcopy(ENVELOPE))
    assert list(parsed.verify([securesystemslib_key(AUDITOR.verify_key)], 1)) == [AUDITOR.verify_key.keyid]
    assert parsed.pae() == pae(PAYLOAD_TYPE, parsed.payload) and parsed.payload == canonical(STATEMENT)
    statement = Statement.copy_from_pb(json_format.Parse(parsed.payload, statement_pb2.Statement()))
    statement.validate()
    assert statement.pb.subject[0].digest["sha256"] == SHA and statement.pb.predicate["bits"] == 8.25


def test_verification_returns_the_signed_statement() -> None:
    for envelope in (ENVELOPE, json.dumps(ENVELOPE), json.dumps(ENVELOPE, indent=2).encode()):
        assert verify_envelope(envelope, [LAB.verify_key, AUDITOR.verify_key]) == STATEMENT


def test_the_example_of_the_dsse_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_any_changed_byte_of_payload_signature_or_type_fails_in_both_implementations() -> None:
    payload, sig = base64.b64decode(ENVELOPE["payload"]), base64.b64decode(ENVELOPE["signatures"][0]["sig"])
    places: list[tuple[bytes, Callable[[bytes], dict[str, Any]]]] = [
        (payload, lambda d: {**ENVELOPE, "payload": base64.b64encode(d).decode()}),
        (sig, lambda d: {**ENVELOPE, "signatures": [{**ENVELOPE["signatures"][0], "sig": base64.b64encode(d).decode()}]}),
        (PAYLOAD_TYPE.encode(), lambda d: {**ENVELOPE, "payloadType": d.decode("latin-1")}),
    ]
    for original, replace in places:
        for position in range(len(original)):
            for flip in (1, 0x80):
                changed = replace(original[:position] + bytes([original[position] ^ flip]) + original[position + 1 :])
                assert not verifies(changed) and not others_verify(changed)
        for other in (original[:-1], original + b"x", b""):
            assert not verifies(replace(other)) and not others_verify(replace(other))


def test_any_changed_character_of_the_envelopes_text_fails() -> None:
    text = json.dumps(ENVELOPE)
    for position in range(len(text)):
        for other in ("A", "=", '"', chr(ord(text[position]) ^ 1)):
            if other != text[position]:
                assert not verifies(text[:position] + other + text[position + 1 :]), position


def sign_payload(payload: bytes, kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """Return an envelope with a valid signature of any payload."""
    signature = {"keyid": AUDITOR.verify_key.keyid, "sig": base64.b64encode(AUDITOR.sign(pae(kind, payload))).decode()}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [signature]}


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (canonical({**STATEMENT, "_type": "https://in-toto.io/Statement/v0.1"}), "_type"),
        (canonical({**STATEMENT, "_type": ["x"]}), "_type"),
        (canonical({**STATEMENT, "subject": []}), "subject: expected at least one"),
        (canonical({k: v for k, v in STATEMENT.items() if k != "subject"}), "subject: expected at least one"),
        (canonical({**STATEMENT, "subject": [1]}), "subject.0.name"),
        (canonical({**STATEMENT, "subject": [{"name": "m"}]}), "subject.0.digest.sha256"),
        (canonical({**STATEMENT, "subject": [{"name": "m", "digest": {"sha256": SHA.upper()}}]}), "subject.0.digest.sha256"),
        (canonical({**STATEMENT, "predicateType": ""}), "predicateType"),
        (canonical({**STATEMENT, "predicate": []}), "predicate: "),
        (b'{"_type":1,' + canonical(STATEMENT)[1:], "occurs twice"),
        (canonical(STATEMENT).replace(b'"n":12', b'"n":NaN'), "finite"),
        (canonical(STATEMENT).replace(b'"n":12', b'"n":1e999'), "finite"),
        (canonical(STATEMENT).replace(b'"n":12', b'"n":' + b"1" * 5000), "plain JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "UTF-8"),
        (b"\xef\xbb\xbf{}", "payload"),
        (canonical(STATEMENT).decode().encode("utf-16"), "payload"),
        (b"", "expected JSON"),
        (b"[]", "expected an object"),
    ],
    ids=str,
)
def test_a_signed_payload_that_is_no_statement_is_rejected(payload: bytes, why: str) -> None:
    with pytest.raises(AttestationError, match=why):
        verify_envelope(sign_payload(payload), [AUDITOR.verify_key])


def test_malformed_envelopes_are_rejected() -> None:
    good = ENVELOPE["signatures"][0]
    for envelope, why in (
        ({**ENVELOPE, "extra": 1}, "exactly"),
        ({k: v for k, v in ENVELOPE.items() if k != "signatures"}, "exactly"),
        ({**ENVELOPE, "signatures": []}, "1 to 16"),
        ({**ENVELOPE, "signatures": [good] * 17}, "1 to 16"),
        ({**ENVELOPE, "signatures": {"0": good}}, "1 to 16"),
        ({**ENVELOPE, "signatures": [{**good, "cert": "x"}]}, "exactly keyid and sig"),
        ({**ENVELOPE, "signatures": [{**good, "keyid": ["x"]}]}, "exactly keyid and sig"),
        ({**ENVELOPE, "signatures": [good, {"keyid": good["keyid"], "sig": ""}]}, "signatures.1"),
        ({**ENVELOPE, "payload": ENVELOPE["payload"] + "\n"}, "payload: expected base64"),
        ({**ENVELOPE, "payload": "\ud800"}, "payload: expected base64"),
        ({**ENVELOPE, "payload": 1}, "payload: expected base64"),
        (sign_payload(canonical(STATEMENT), "text/plain"), "payloadType"),
        ({**ENVELOPE, "payloadType": None}, "payloadType"),
        (json.dumps(ENVELOPE)[:-1] + ', "payload": ""}', "occurs twice"),
        ("[1, 2]", "exactly"),
        (None, "exactly"),
        (3, "exactly"),
    ):
        with pytest.raises(AttestationError, match=why):
            verify_envelope(envelope, [AUDITOR.verify_key])  # type: ignore[arg-type]


def test_signatures_of_unknown_keys_are_ignored_and_an_invalid_one_of_a_known_key_is_rejected() -> None:
    for keys in ([], [LAB.verify_key]):
        with pytest.raises(AttestationError, match="got none"):
            verify_envelope(ENVELOPE, keys)
    both = {**ENVELOPE, "signatures": [*sign_statement(STATEMENT, LAB)["signatures"], *ENVELOPE["signatures"]]}
    assert verify_envelope(both, [AUDITOR.verify_key]) == verify_envelope(both, [LAB.verify_key]) == STATEMENT and others_verify(both)
    swapped = {**ENVELOPE, "signatures": [{**ENVELOPE["signatures"][0], "keyid": LAB.verify_key.keyid}]}
    with pytest.raises(AttestationError, match="did not sign"):
        verify_envelope(swapped, [LAB.verify_key, AUDITOR.verify_key])


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
)
def test_any_value_in_any_field_raises_no_other_error(value: Any) -> None:
    assert not verifies(value)
    for field in ENVELOPE:
        assert not verifies({**ENVELOPE, field: value})
    assert not verifies({**ENVELOPE, "signatures": [value]})
    assert not verifies(sign_payload(json.dumps(value).encode("utf-8", errors="surrogatepass")))
    verifies(sign_payload(json.dumps({**STATEMENT, "predicate": value, "subject": [value]}).encode()))


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_are_rejected_with_the_same_error(data: bytes) -> None:
    assert not verifies(data) and not verifies(sign_payload(data))


def test_only_valid_statements_can_be_made_and_signed() -> None:
    for subjects, kind, predicate in (({}, "t", {"a": 1}), ({"m": "12"}, "t", {"a": 1}), ({"m": SHA}, "", {"a": 1}), ({"m": SHA}, "t", {})):
        with pytest.raises(AttestationError, match="statement"):
            make_statement(subjects, kind, predicate)
    for value in (float("nan"), 2**60, object()):
        with pytest.raises(AttestationError, match="canonical JSON"):
            sign_statement({**STATEMENT, "predicate": {"a": value}}, AUDITOR)
    with pytest.raises(AttestationError, match="by their digest"):
        sign_statement({**STATEMENT, "predicate": {"a": "x" * (1 << 22)}}, AUDITOR)
    with pytest.raises(AttestationError, match="_type"):
        sign_statement({}, AUDITOR)
