"""Attestations: in-toto Statements (v1), signed in DSSE envelopes (v1), as plain JSON.

A statement says something (``predicate``, of a ``predicateType`` that says how to read it) of things named by their digests
(``subject``). The envelope signs the exact bytes of the statement and the type of those bytes, so that it verifies with
any DSSE implementation, whatever order that keeps its JSON keys in; the bytes written here are canonical JSON.

Signatures are found by their key's id, SHA-256 of the raw key. Those of unknown keys say nothing and are left
alone; one of a known key that does not verify spoils the envelope, whatever the others are.
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
LONGEST = 1 << 22
MOST_SIGNATURES = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement about subjects, given as name → SHA-256 in hex.

    Raises:
        AttestationError: a part of it is missing or is not what it should be.
    """
    made = {
        "_type": STATEMENT_TYPE, "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(subjects.items())],
        "predicateType": predicate_type, "predicate": dict(predicate),
    }  # fmt: skip
    _check_statement(made)
    return made


def seal(statement: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """The signed envelope of a statement.

    Raises:
        AttestationError: it is no statement, or cannot be written as JSON.
    """
    _check_statement(statement)
    try:
        payload = canonical(dict(statement))
    except (ValueError, TypeError, RecursionError):
        raise AttestationError("statement: expected what canonical JSON can say; leave out NaN, large integers and objects.") from None
    if len(payload) > LONGEST:
        raise AttestationError(f"statement: expected at most {LONGEST} bytes, got {len(payload)}; refer to large things by their digest.")
    signature = {"keyid": key.verify_key.keyid, "sig": to_base64(key.sign(pae(PAYLOAD_TYPE, payload)))}
    return {"payload": to_base64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}


def unseal(envelope: Mapping[str, Any] | str | bytes, keys: Sequence[VerifyKey]) -> dict[str, Any]:
    """The statement in an envelope that at least one of the keys signed.

    Args:
        envelope: as parsed JSON, or as the text of it (only there can a key that stands twice be seen and refused).
        keys: those that are believed.

    Raises:
        AttestationError: it is no such envelope, no known key signed it, a known key's signature does not verify, or
            what was signed is no statement.
    """
    found = _loaded(envelope, "envelope") if isinstance(envelope, (str, bytes)) else envelope
    if not isinstance(found, Mapping) or set(found) != {"payload", "payloadType", "signatures"}:
        raise AttestationError(
            "envelope: expected an object of payload, payloadType and signatures alone; give the envelope as it was sealed."
        )
    if found["payloadType"] != PAYLOAD_TYPE or not isinstance(found["payloadType"], str):
        raise AttestationError(f"payloadType: expected {PAYLOAD_TYPE!r}, got {_shown(found['payloadType'])}; give an in-toto attestation.")
    payload = _decoded(found["payload"], "payload")
    message = pae(PAYLOAD_TYPE, payload)
    signatures = found["signatures"]
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MOST_SIGNATURES:
        raise AttestationError(
            f"signatures: expected a list of 1 to {MOST_SIGNATURES}, got {_shown(signatures)}; give the envelope as it was sealed."
        )
    known = {key.keyid: key for key in keys}
    verified = 0
    for at, signature in enumerate(signatures):
        if not isinstance(signature, Mapping) or set(signature) != {"keyid", "sig"} or not isinstance(signature["keyid"], str):
            raise AttestationError(
                f"signatures.{at}: expected an object of keyid and sig alone, got {_shown(signature)}; give it as it was sealed."
            )
        raw = _decoded(signature["sig"], f"signatures.{at}.sig")
        key = known.get(signature["keyid"])
        if key is None:
            continue
        if not key.verify(raw, message):
            raise AttestationError(
                f"signatures.{at}: the key {key.name!r} did not sign this payload; the envelope was changed after sealing."
            )
        verified += 1
    if not verified:
        raise AttestationError(
            "signatures: none is of a key that was given; give the key of whoever sealed it, or believe nothing it says."
        )
    statement = _loaded(payload, "payload")
    _check_statement(statement)
    assert isinstance(statement, dict)
    return statement


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over: type and payload, each with its length (pre-authentication encoding, v1)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _shown(value: Any) -> str:
    """A hostile value, short enough for a sentence, and never written out in full to find that out."""
    return (
        f"{value!r:.60}"
        if isinstance(value, (bool, float)) or value is None
        else f"{value[:60]!r}"
        if isinstance(value, str)
        else f"a {type(value).__name__}"
    )


def _decoded(text: Any, where: str) -> bytes:
    try:
        if not isinstance(text, str) or len(text) > 2 * LONGEST:
            raise ValueError
        return from_base64(text)
    except ValueError:
        raise AttestationError(f"{where}: expected base64, got {_shown(text)}; give the envelope as it was sealed.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is not finite")
    return value


def _loaded(text: str | bytes, where: str) -> Any:
    """JSON that says one thing only: UTF-8, finite numbers, no key twice.

    Raises:
        AttestationError: it is not.
    """
    try:
        if len(text) > 2 * LONGEST:
            raise ValueError("it is too long")
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        return json.loads(plain, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise AttestationError(
            f"{where}: expected JSON, but {error.msg} at character {error.pos}; give the envelope as it was sealed."
        ) from None
    except UnicodeDecodeError:
        raise AttestationError(f"{where}: expected JSON in UTF-8; give the envelope as it was sealed.") from None
    except ValueError as error:
        raise AttestationError(f"{where}: expected plain JSON, but {str(error)[:80]}; seal it without that.") from None
    except RecursionError:
        raise AttestationError(f"{where}: expected plain JSON, but it is nested too deeply; seal it without that.") from None


def _check_statement(found: Any) -> None:
    """Refuse what is not a statement about at least one digest. Fields that the format does not know are allowed, as it asks."""
    if not isinstance(found, Mapping):
        raise AttestationError(f"statement: expected an object, got {_shown(found)}; make it with `statement`.")
    if found.get("_type") != STATEMENT_TYPE:
        raise AttestationError(
            f"statement: _type: expected {STATEMENT_TYPE!r}, got {_shown(found.get('_type'))}; give a statement of version 1."
        )
    subjects = found.get("subject")
    if not isinstance(subjects, list) or not subjects:
        raise AttestationError("statement: subject: expected at least one; name what the statement is about.")
    for at, subject in enumerate(subjects):
        digest = subject.get("digest") if isinstance(subject, Mapping) else None
        sha256 = digest.get("sha256") if isinstance(digest, Mapping) else None
        if not isinstance(subject, Mapping) or not isinstance(subject.get("name"), str) or not subject["name"]:
            raise AttestationError(f"statement: subject.{at}.name: expected some text; name what the statement is about.")
        if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
            raise AttestationError(
                f"statement: subject.{at}.digest.sha256: expected 64 hex digits, got {_shown(sha256)}; give the SHA-256."
            )
    if not isinstance(found.get("predicateType"), str) or not found["predicateType"]:
        raise AttestationError("statement: predicateType: expected a URI; say how the predicate is to be read.")
    if not isinstance(found.get("predicate"), Mapping) or not found["predicate"]:
        raise AttestationError("statement: predicate: expected an object with at least one field; say something about the subject.")
