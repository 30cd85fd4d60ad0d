"""Attestations: in-toto Statements (v1) in signed DSSE envelopes (v1), as plain JSON.

A statement makes a claim (``predicate``, whose form is named by ``predicateType``) about things
that are named by their digests (``subject``). The envelope signs the exact bytes of the statement
and the type of those bytes. Any DSSE implementation can therefore verify it, in whatever order it
serialises JSON keys. The bytes written here are canonical JSON (RFC 8785).

A signature names its key by the key's id, SHA-256 of the raw key. Signatures of unknown keys are
ignored. A signature of a known key that does not verify makes the envelope invalid, whatever the
other signatures are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stagezero.errors import AttestationError
from stagezero.ledger.canonical import canonical
from stagezero.ledger.keys import SigningKey, VerifyKey, from_base64, to_base64

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_PAYLOAD_BYTES = 1 << 22
MAX_SIGNATURES = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


def make_statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """Make a statement.

    Args:
        subjects: name of each subject → its SHA-256, as hex.
        predicate_type: URI that names the form of the predicate.
        predicate: the claim.

    Raises:
        AttestationError: a part is missing or invalid.

    Source: in-toto Statement v1.
    """
    statement = {
        "_type": STATEMENT_TYPE, "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(subjects.items())],
        "predicateType": predicate_type, "predicate": dict(predicate),
    }  # fmt: skip
    _check_statement(statement)
    return statement


def sign_statement(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Sign a statement and return its envelope.

    Raises:
        AttestationError: it is not a valid statement, or canonical JSON cannot represent it.

    Source: DSSE v1.
    """
    _check_statement(statement)
    try:
        payload = canonical(dict(statement))
    except (ValueError, TypeError, RecursionError):
        raise AttestationError(
            "statement: expected a value that canonical JSON can represent; remove NaN, large integers and objects."
        ) from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise AttestationError(
            f"statement: expected at most {MAX_PAYLOAD_BYTES} bytes, got {len(payload)}; refer to large things by their digest."
        )
    signature = {"keyid": key.verify_key.keyid, "sig": to_base64(key.sign(pae(PAYLOAD_TYPE, payload)))}
    return {"payload": to_base64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}


def verify_envelope(envelope: Mapping[str, Any] | str | bytes, keys: Sequence[VerifyKey]) -> dict[str, Any]:
    """Verify an envelope that at least one of the keys signed, and return its statement.

    Args:
        envelope: parsed JSON, or its text. Only in text can a duplicate JSON key be detected and
            rejected.
        keys: the trusted public keys.

    Raises:
        AttestationError: it is not an envelope, no trusted key signed it, the signature of a
            trusted key does not verify, or the payload is not a statement.

    Source: DSSE v1.
    """
    parsed = _parse_json(envelope, "envelope") if isinstance(envelope, (str, bytes)) else envelope
    if not isinstance(parsed, Mapping) or set(parsed) != {"payload", "payloadType", "signatures"}:
        raise AttestationError(
            "envelope: expected an object with exactly payload, payloadType and signatures; give the whole envelope as it was signed."
        )
    if parsed["payloadType"] != PAYLOAD_TYPE or not isinstance(parsed["payloadType"], str):
        raise AttestationError(
            f"payloadType: expected {PAYLOAD_TYPE!r}, got {_shorten(parsed['payloadType'])}; give an in-toto attestation."
        )
    payload = _decode_base64(parsed["payload"], "payload")
    message = pae(PAYLOAD_TYPE, payload)
    signatures = parsed["signatures"]
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MAX_SIGNATURES:
        raise AttestationError(
            f"signatures: expected a list of 1 to {MAX_SIGNATURES}, got {_shorten(signatures)}; give the whole envelope as it was signed."
        )
    trusted = {key.keyid: key for key in keys}
    verified = 0
    for at, signature in enumerate(signatures):
        if not isinstance(signature, Mapping) or set(signature) != {"keyid", "sig"} or not isinstance(signature["keyid"], str):
            raise AttestationError(
                f"signatures.{at}: expected an object with exactly keyid and sig, got {_shorten(signature)}; "
                "give the whole envelope as it was signed."
            )
        raw = _decode_base64(signature["sig"], f"signatures.{at}.sig")
        key = trusted.get(signature["keyid"])
        if key is None:
            continue
        if not key.verify(raw, message):
            raise AttestationError(
                f"signatures.{at}: the key {key.name!r} did not sign this payload; the envelope was changed after it was signed."
            )
        verified += 1
    if not verified:
        raise AttestationError(
            "signatures: expected one by a given key, got none; give the key of the signer, or do not trust the statement."
        )
    statement = _parse_json(payload, "payload")
    _check_statement(statement)
    assert isinstance(statement, dict)
    return statement


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a DSSE signature covers: type and payload, each with its length.

    Source: DSSE v1, pre-authentication encoding (PAE).
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _shorten(value: Any) -> str:
    """Represent an untrusted value in at most a few words, without ever serialising all of it."""
    return (
        f"{value!r:.60}"
        if isinstance(value, (bool, float)) or value is None
        else f"{value[:60]!r}"
        if isinstance(value, str)
        else f"a {type(value).__name__}"
    )


def _decode_base64(text: Any, where: str) -> bytes:
    try:
        if not isinstance(text, str) or len(text) > 2 * MAX_PAYLOAD_BYTES:
            raise ValueError
        return from_base64(text)
    except ValueError:
        raise AttestationError(f"{where}: expected base64, got {_shorten(text)}; give the whole envelope as it was signed.") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return unique


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return value


def _parse_json(text: str | bytes, where: str) -> Any:
    """Parse unambiguous JSON: UTF-8, finite numbers, no duplicate key.

    Raises:
        AttestationError: the text is anything else.
    """
    try:
        if len(text) > 2 * MAX_PAYLOAD_BYTES:
            raise ValueError("it is too long")
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(plain, object_pairs_hook=_unique_keys, parse_constant=_parse_finite, parse_float=_parse_finite)
    except json.JSONDecodeError as error:
        raise AttestationError(
            f"{where}: expected JSON, but {error.msg} at character {error.pos}; give the whole envelope as it was signed."
        ) from None
    except UnicodeDecodeError:
        raise AttestationError(f"{where}: expected JSON in UTF-8; give the whole envelope as it was signed.") from None
    except ValueError as error:
        raise AttestationError(f"{where}: expected plain JSON, but {str(error)[:80]}; sign a statement without that.") from None
    except RecursionError:
        raise AttestationError(f"{where}: expected plain JSON, but it is nested too deeply; sign a statement without that.") from None


def _check_statement(statement: Any) -> None:
    """Reject anything but a statement about at least one digest.

    Unknown fields are allowed, as the in-toto format requires.
    """
    if not isinstance(statement, Mapping):
        raise AttestationError(f"statement: expected an object, got {_shorten(statement)}; make it with `make_statement`.")
    if statement.get("_type") != STATEMENT_TYPE:
        raise AttestationError(
            f"statement: _type: expected {STATEMENT_TYPE!r}, got {_shorten(statement.get('_type'))}; give a statement of version 1."
        )
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or not subjects:
        raise AttestationError("statement: subject: expected at least one subject, got none; name the subjects of the statement.")
    for at, subject in enumerate(subjects):
        digest = subject.get("digest") if isinstance(subject, Mapping) else None
        sha256 = digest.get("sha256") if isinstance(digest, Mapping) else None
        if not isinstance(subject, Mapping) or not isinstance(subject.get("name"), str) or not subject["name"]:
            raise AttestationError(f"statement: subject.{at}.name: expected a non-empty text; name the subject of the statement.")
        if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
            raise AttestationError(
                f"statement: subject.{at}.digest.sha256: expected 64 hex digits, got {_shorten(sha256)}; give the SHA-256."
            )
    if not isinstance(statement.get("predicateType"), str) or not statement["predicateType"]:
        raise AttestationError("statement: predicateType: expected a URI; give the one that names the form of the predicate.")
    if not isinstance(statement.get("predicate"), Mapping) or not statement["predicate"]:
        raise AttestationError("statement: predicate: expected an object with at least one field; add a claim about the subject.")
