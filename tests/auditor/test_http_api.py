"""The auditor over HTTP: authentication, the responses of every endpoint, and concurrent clients.

Covers: auditor/server.py, door/client.py, door/verify_attestation.py.
"""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest_auditor import UNREACHABLE_BARS, AuditorHarness, Clock, sealed_file, serve, terms, variant
from fastapi.testclient import TestClient

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import MAX_BODY_BYTES, application, new_token, token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Door, Reply
from stagezero.door.checkpoint_exchange import CheckpointExchange
from stagezero.door.verify_attestation import verify_attestation
from stagezero.errors import AttestationError, ClosedError, DoorError, WitnessError
from stagezero.ledger import Ledger, SigningKey, VerifyKey, read, read_checkpoint, verify_envelope
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import content_files

LAB, OTHER = ({"Authorization": f"Bearer token of {account}"} for account in ("lab", "other"))


@pytest.fixture(autouse=True)
def no_unexpected_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No request of any test may cause an unexpected error in the auditor."""
    with caplog.at_level(logging.ERROR, "stagezero.auditor"):
        yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.name == "stagezero.auditor" and r.levelno >= logging.ERROR] == []


def client(harness: AuditorHarness, **headers: str) -> TestClient:
    """Return a client with the lab's token, or with other headers."""
    return TestClient(application(harness.auditor), raise_server_exceptions=False, headers=headers or LAB)


def body(folder: Path, suite: str = "suite") -> dict[str, Any]:
    return {"suite": suite, "digest": checkpoint_digest(folder), "folder": str(folder)}


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_stored_hashed_and_a_new_one_invalidates_the_old(harness: AuditorHarness) -> None:
    harness.add_suite()
    token = new_token()
    assert len(token) >= 40 and token != new_token()
    harness.auditor.meter.set_token("third", token_hash(token))
    with client(harness, Authorization=f"Bearer {token}") as http:
        assert http.get("/v1/suites").json() == ["suite"]
        new = new_token()
        harness.auditor.meter.set_token("third", token_hash(new))
        assert http.get("/v1/suites").status_code == 401
        assert http.get("/v1/suites", headers={"Authorization": f"Bearer {new}"}).status_code == 200
    stored = sqlite3.connect(harness.folder / "meter.sqlite").execute("SELECT token FROM accounts").fetchall()
    assert (token_hash(new),) in stored
    for path in harness.folder.rglob("*"):
        if path.is_file():
            assert new.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic dG9rZW4=", "Bearer token of lab2", "bearer\ttoken", "Bearer \xff\xfe"]
)
def test_every_endpoint_rejects_a_missing_or_unknown_token(harness: AuditorHarness, base: Path, header: str | None) -> None:
    harness.add_suite()
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    http = TestClient(application(harness.auditor), raise_server_exceptions=False, headers=headers)  # type: ignore[arg-type]
    digest = checkpoint_digest(base)
    for method, path in (
        ("GET", "/v1/suites"),
        ("GET", "/v1/suites/suite"),
        ("GET", "/v1/suites/suite/certificate"),
        ("GET", f"/v1/suites/suite/models/{digest}"),
        ("GET", "/v1/submissions/1"),
        ("GET", "/v1/submissions/1/attestation"),
        ("PUT", f"/v1/models/{digest}/config.json"),
        ("POST", "/v1/submissions"),
        ("POST", "/v1/witness"),
        ("POST", "/v1/checkpoint"),
    ):
        reply = http.request(method, path, json=body(base) if method == "POST" else None)
        assert (reply.status_code, reply.json()) == (401, {"reason": "the token is missing or unknown"}), path
        assert reply.headers["www-authenticate"] == "Bearer"
    assert harness.auditor.meter.charges() == []
    assert list((harness.folder / "intake").iterdir()) == []


# --- the responses of each endpoint ---------------------------------------------------------------


def test_from_submission_to_attestation(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    http = client(harness)
    digest = checkpoint_digest(base)
    assert http.get(f"/v1/suites/suite/models/{digest}").status_code == 404
    first = http.post("/v1/submissions", json=body(base))
    assert first.status_code == 202 and set(first.json()) == {"submission", "due"}
    assert http.post("/v1/submissions", json=body(base)).json() == first.json()
    assert http.get(f"/v1/suites/suite/models/{digest}").json() == first.json()
    path = f"/v1/submissions/{first.json()['submission']}"
    harness.wait_for_audits()
    for _ in range(3):
        early = http.get(path)
        assert (early.status_code, early.json()) == (202, first.json())
        assert http.get(f"{path}/attestation").status_code == 404
    harness.clock.now = first.json()["due"]
    answer = http.get(path)
    assert (answer.status_code, answer.json()) == (200, {"verdict": "pass"})
    assert client(harness, **OTHER).get(path).status_code == 404, "the submission of another account"
    status = http.get("/v1/suites/suite").json()
    assert (status["submissions_used"], status["passes_given"], status["takes"]) == (1, 1, "folder")
    certified = http.get("/v1/suites/suite/certificate").json()
    assert "every model that ever passed" in certified["sentence"] and certified["answers_given"] == 1

    envelope = http.get(f"{path}/attestation").json()
    key = harness.auditor.storage.public_key
    assert verify_envelope(json.dumps(envelope), [key])["subject"][0]["digest"]["sha256"] == digest
    file = tmp_path / "attestation.json"
    file.write_text(json.dumps(envelope))
    predicate = verify_attestation(file, key.text(), base)["predicate"]
    assert predicate["passed"] == {"candour": {"true_mean_at_least": 0.02}} and predicate["disclosure"]["bits"]["in_all"] <= 3
    with pytest.raises(AttestationError, match="is not the model"):
        verify_attestation(file, key.text(), variant(base, tmp_path, 1))
    with pytest.raises(AttestationError):
        verify_attestation(file, SigningKey.from_seed(bytes(32), "test").verify_key.text())


def test_a_failed_model_gets_no_attestation_and_the_refusal_is_the_same_at_any_time(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite(bars=UNREACHABLE_BARS)
    http = client(harness)
    receipt = http.post("/v1/submissions", json=body(base)).json()
    path = f"/v1/submissions/{receipt['submission']}"
    early = http.get(f"{path}/attestation")
    harness.wait_for_audits()
    settled = http.get(f"{path}/attestation")
    harness.clock.now = receipt["due"]
    late = http.get(f"{path}/attestation")
    assert http.get(path).json() == {"verdict": "fail"}
    assert [r.status_code for r in (early, settled, late)] == [404] * 3 and early.json() == settled.json() == late.json()


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/suites/none", 404),
        ("GET", "/v1/suites/none/certificate", 404),
        ("GET", "/v1/suites/%2e%2e", 422),
        ("GET", "/v1/suites/" + "a" * 101, 422),
        ("GET", "/v1/suites/suite/models/abc", 422),
        ("GET", f"/v1/suites/none/models/{'0' * 64}", 404),
        ("GET", "/v1/submissions/0", 422),
        ("GET", "/v1/submissions/-1", 422),
        ("GET", "/v1/submissions/" + "9" * 5000, 422),
        ("GET", "/v1/submissions/9007199254740993", 422),
        ("GET", "/v1/submissions/7", 404),
        ("GET", "/v1/submissions/7/attestation", 404),
        ("GET", "/v1/suites/", 404),
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/../etc/passwd", 404),
        ("DELETE", "/v1/suites", 405),
        ("POST", "/v1/setup", 404),
        ("PUT", f"/v1/models/{'0' * 64}/config.json", 404),
        ("PUT", f"/v1/models/{'0' * 64}/..%2f..%2fkey", 404),
    ],
)
def test_invalid_requests_are_rejected_with_a_reason_and_no_path(harness: AuditorHarness, method: str, path: str, code: int) -> None:
    harness.add_suite()
    reply = client(harness).request(method, path)
    assert reply.status_code == code
    assert set(reply.json()) == {"reason"} and str(harness.folder) not in reply.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"suite":"suite"}',
        b'{"suite":"suite","digest":"' + b"0" * 64 + b'","bits":0}',
        b'{"suite":"suite","digest":"' + b"0" * 64 + b'","\\ud800":1}',
        b'{"suite":"suite","digest":"' + b"0" * 64 + b'","folder":"/\\ud800"}',
        b'{"suite":"suite","digest":"' + b"0" * 64 + b'","folder":"/\\u0000"}',
        b'{"suite":1e999,"digest":NaN}',
        b'{"suite":"suite","digest":"' + b"A" * 64 + b'"}',
        b"9" * 60_000,
    ],
)
def test_malformed_submissions_are_rejected_without_a_charge(harness: AuditorHarness, content: bytes) -> None:
    harness.add_suite()
    for path in ("/v1/submissions", "/v1/witness", "/v1/checkpoint"):
        reply = client(harness).post(path, content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code in (400, 422) or (path == "/v1/checkpoint" and content == b"null"), (path, reply.text)
        assert set(reply.json()) == {"reason"} and len(reply.json()["reason"]) <= 500
    assert harness.auditor.meter.charges() == []


def test_no_response_contains_a_path_or_a_sealed_item(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    http = client(harness)
    lab_key = SigningKey.from_seed(bytes(32), "lab")
    ledgers = [Ledger(tmp_path / f"{i}.jsonl") for i in range(2)]
    for number, ledger in enumerate(ledgers):
        ledger.record("note", {"n": number})
    replies = [http.post("/v1/submissions", json=body(base)).text]
    harness.wait_for_audits()
    harness.clock.now += 100
    replies += [http.get(path).text for path in ("/openapi.json", "/v1/suites", "/v1/suites/suite", "/v1/suites/suite/certificate")]
    replies += [http.get(f"/v1/submissions/1{end}").text for end in ("", "/attestation")]
    replies.append(http.post("/v1/submissions", json={**body(base), "folder": str(harness.folder)}).text)
    broken = variant(base, tmp_path, 5)
    (broken / "model.safetensors").write_bytes(b"short")
    replies.append(http.post("/v1/submissions", json=body(broken)).text)
    for ledger in ledgers:  # a split view
        message = {"key": lab_key.verify_key.text(), "checkpoint": ledger.checkpoint(lab_key)}
        replies.append(http.post("/v1/witness", json=message).text)
        ledger.close()
    assert "split view" in replies[-1]
    replies.append(http.post("/v1/checkpoint", json={}).text)
    for text in replies:
        for secret in (str(harness.folder), "trap 7?", "Traceback", "sealed.jsonl/", "intake"):
            assert secret not in text, text


# --- request sizes --------------------------------------------------------------------------------


def test_large_bodies_and_bodies_without_a_length_are_rejected(harness: AuditorHarness) -> None:
    harness.add_suite()
    http = client(harness)
    assert http.post("/v1/submissions", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert http.post("/v1/submissions", content=iter([b"{}"])).status_code == 413
    for length in ("-1", "1e3", "\u00b2", "9" * 21, "0" * 20 + "99999"):
        headers = {"Content-Length": length.encode("latin-1")}
        assert http.post("/v1/submissions", content=b"{}", headers=headers).status_code == 413  # type: ignore[arg-type]


def test_an_invalid_host_header_causes_no_server_error(harness: AuditorHarness) -> None:
    harness.add_suite()
    for host in ("[", "[::1", "a b", "\u00ff", ""):
        reply = client(harness).get("/v1/suites", headers={b"Host": host.encode("latin-1")})
        assert reply.status_code in (200, 400)


def _raw(address: str, request: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        response = b""
        while chunk := connection.recv(65536):
            response += chunk
    return response


@pytest.fixture
def uploading(tmp_path: Path) -> Iterator[AuditorHarness]:
    """An auditor that accepts uploads instead of folders."""
    harness = AuditorHarness(tmp_path / "auditor", Clock(), takes_folders=False)
    harness.add_suite()
    yield harness
    harness.auditor.close()


def test_an_interrupted_upload_leaves_no_file(uploading: AuditorHarness) -> None:
    head = f"PUT /v1/models/{'0' * 64}/config.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token of lab\r\n"
    with serve(uploading.auditor) as address:
        _raw(address, f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        _raw(address, f"{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode())
        _raw(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        _raw(address, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n")
        end = time.monotonic() + 5
        while any((uploading.folder / "intake").rglob("*.json")) or any((uploading.folder / "intake").rglob(".writing-*")):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert httpx.get(f"{address}/v1/suites", headers=LAB, trust_env=False).json() == ["suite"]


def test_uploads_are_limited_in_names_sizes_and_number(uploading: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagezero.auditor.intake.MAX_FILES", 32)
    http, other = client(uploading), "1" * 64
    uploading.auditor.intake.max_model_bytes = 1000
    for name in ("evil.py", "pytorch_model.bin", ".hidden.safetensors", "key", "a" * 130 + ".safetensors", "%00.safetensors"):
        assert http.put(f"/v1/models/{other}/{name}", content=b"x").status_code in (400, 422), name
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 1001).status_code == 400
    assert http.put(f"/v1/models/{other}/a.safetensors", content=iter([b"x" * 600] * 2)).status_code == 400
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 600).status_code == 204
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 900).status_code == 204, "a second upload replaces the file"
    assert http.put(f"/v1/models/{other}/b.safetensors", content=b"x" * 101).status_code == 400
    for i in range(9):
        assert http.put(f"/v1/models/{i}{'2' * 63}/a.safetensors", content=b"x").status_code == 204
    assert len(list((uploading.folder / "intake").iterdir())) == 4
    many = "3" * 64
    assert {http.put(f"/v1/models/{many}/f{i}.safetensors").status_code for i in range(32)} == {204}
    assert http.put(f"/v1/models/{many}/g.safetensors").status_code == 400


def test_an_account_cannot_submit_what_another_account_uploaded(uploading: AuditorHarness, base: Path) -> None:
    digest = checkpoint_digest(base)
    for path in content_files(base):
        assert client(uploading).put(f"/v1/models/{digest}/{path.name}", content=path.read_bytes()).status_code == 204
    submission = {"suite": "suite", "digest": digest}
    assert client(uploading, **OTHER).post("/v1/submissions", json=submission).status_code == 400
    assert client(uploading).post("/v1/submissions", json={**submission, "folder": str(base)}).status_code == 404
    assert client(uploading).post("/v1/submissions", json=submission).status_code == 202


# --- through the lab's client ---------------------------------------------------------------------


@pytest.mark.parametrize("folders", [True, False])
def test_end_to_end_with_the_labs_client(base: Path, tmp_path: Path, folders: bool) -> None:
    storage = Storage.create(tmp_path / "auditor", "real", 4.0)
    storage.meter.set_token("lab", token_hash("token"))
    storage.add("suite", terms(sealed=str(sealed_file(tmp_path / "sealed.jsonl", 60))))
    with Auditor(storage, takes_folders=folders) as auditor, serve(auditor) as address:
        door = Door(address, "token", "suite")
        start = time.time()
        assert door.submit_and_wait(base, checkpoint_digest(base)) == Reply(verdict="pass")
        assert time.time() - start >= 4.0
        assert door.submit_and_wait(base, checkpoint_digest(base)) == Reply(verdict="pass")
        receipt = door.receipt(checkpoint_digest(base))
        assert verify_envelope(json.dumps(door.attestation(receipt)), [auditor.storage.public_key])
        ledger = Ledger(tmp_path / "lab.jsonl")
        (tmp_path / "lab").mkdir()
        exchange = CheckpointExchange(door, ledger, tmp_path / "lab")
        for n in range(3):
            ledger.record("note", {"n": n})
            read_checkpoint(exchange.run(), auditor.storage.public_key)
        ledger.close()
        with pytest.raises(DoorError, match=r"\(401\)"):
            Door(address, "no token", "suite").status()
        with pytest.raises(DoorError, match="not the one its digest names"):
            door.submit(variant(base, tmp_path, 0), "0" * 64)
        assert len(auditor.meter.charges()) == 1
        assert {p.name for p in (tmp_path / "auditor" / "intake").iterdir()} == set()
        door.close()


def test_a_newer_checkpoint_reveals_a_rollback_and_closes_the_auditor(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    http = client(harness)
    first = http.post("/v1/checkpoint", json={}).json()
    harness.submit_and_wait(base)
    reply = http.post("/v1/checkpoint", json={"checkpoint": first["checkpoint"]})
    assert reply.status_code == 200 and read_checkpoint(reply.json()["checkpoint"], VerifyKey.parse(reply.json()["key"])).size > 2
    assert http.post("/v1/checkpoint", json={"checkpoint": "garbled"}).status_code == 409
    forged = first["checkpoint"].split("\n\n")[0] + f"\n\n— test {'A' * 91}=\n"
    assert http.post("/v1/checkpoint", json={"checkpoint": forged}).status_code == 409
    assert harness.auditor.meter.closed_reason is None, "a checkpoint with an invalid signature reveals no rollback"
    longer = harness.folder.parent / "longer.jsonl"
    ledger = Ledger(longer)
    for n in range(50):
        ledger.record("note", {"n": n})
    newer = ledger.checkpoint(harness.auditor.storage.key)  # signed with its own key, as before a rollback
    ledger.close()
    refusal = http.post("/v1/checkpoint", json={"checkpoint": newer})
    assert refusal.status_code == 409 and "does not continue" in refusal.json()["reason"]
    assert http.post("/v1/submissions", json=body(base)).status_code == 503
    assert http.get("/v1/suites/suite/certificate").json()["closed"] is not None
    harness.auditor.close()
    reopened = AuditorHarness(harness.folder, harness.clock)
    assert client(reopened).post("/v1/submissions", json=body(base)).status_code == 503, "the auditor stays closed"
    with pytest.raises(WitnessError):
        reopened.auditor.checkpoint(newer)
    reopened.auditor.close()


# --- concurrent clients ---------------------------------------------------------------------------


def _submit_concurrently(auditor: Auditor, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    ready = threading.Barrier(len(bodies))

    def post(address: str, submission: dict[str, Any]) -> httpx.Response:
        # Without certificates, which take longer to load than the request takes.
        with httpx.Client(base_url=address, headers=LAB, timeout=120, trust_env=False, verify=False) as http:
            ready.wait()
            return http.post("/v1/submissions", json=submission)

    with serve(auditor) as address, ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda submission: post(address, submission), bodies))


def _count_charges(harness: AuditorHarness) -> tuple[int, int]:
    """Return the number of charges in the database and in the ledger."""
    entries = [e for e in read(harness.folder / "ledger.jsonl") if e.kind == "charged"]
    return len(harness.auditor.meter.charges("suite")), len(entries)


@pytest.mark.parametrize("clients", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_clients_with_different_models_are_charged_within_the_budget(base: Path, tmp_path: Path, clients: int) -> None:
    clock = Clock()
    harness = AuditorHarness(tmp_path / "auditor", clock)
    harness.add_suite(submissions=12, passes=3, bars=UNREACHABLE_BARS)
    bodies = [body(variant(base, tmp_path, i)) for i in range(clients)]
    replies = _submit_concurrently(harness.auditor, bodies)
    codes = Counter(r.status_code for r in replies)
    assert set(codes) == {202, 409}
    # Three passes are allowed. A fourth model is accepted once a pending one cannot have passed.
    assert codes[202] == 3 and _count_charges(harness) == (3, 3)
    assert len({r.json()["submission"] for r in replies if r.status_code == 202}) == 3
    assert len({r.json()["due"] for r in replies if r.status_code == 202}) == 3
    for i in range(5):
        harness.wait_for_audits()
        clock.now += 1000.0
        _submit_concurrently(harness.auditor, bodies[clients // 5 * i + 3 : clients // 5 * (i + 1) + 3])
    assert _count_charges(harness) == (12, 12)
    status = harness.auditor.status("suite")
    assert (status.submissions_used, status.submissions_left) == (12, 0)
    harness.auditor.close()


def test_200_clients_with_one_model_are_charged_once(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    replies = _submit_concurrently(harness.auditor, [body(base)] * 200)
    assert {r.status_code for r in replies} == {202} and len({r.text for r in replies}) == 1
    assert _count_charges(harness) == (1, 1)
    harness.wait_for_audits()
    assert list((harness.folder / "intake").iterdir()) == []


def test_a_closed_auditor_reports_its_reason(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    harness.auditor.meter.close_permanently("a test closed it")
    reply = client(harness).post("/v1/submissions", json=body(base))
    assert reply.status_code == 503 and "a test closed it" in reply.json()["reason"]
    with serve(harness.auditor) as address, pytest.raises(ClosedError):
        Door(address, "token of lab", "suite").submit(base, checkpoint_digest(base))
