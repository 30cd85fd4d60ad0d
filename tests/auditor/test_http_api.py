"""The auditor over HTTP: who may ask, what is said and what never is, and that many clients at once are charged what the meter allows.

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
from conftest_auditor import NEVER, Clock, Desk, sealed_file, served, terms, variant
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

LAB, OTHER = ({"Authorization": f"Bearer token of {who}"} for who in ("lab", "other"))


@pytest.fixture(autouse=True)
def no_alarm(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, no request may fail for a reason that nobody thought of."""
    with caplog.at_level(logging.ERROR, "stagezero.auditor"):
        yield
    assert [r.getMessage() for r in caplog.get_records("call") if r.name == "stagezero.auditor" and r.levelno >= logging.ERROR] == []


def client(desk: Desk, **headers: str) -> TestClient:
    return TestClient(application(desk.auditor), raise_server_exceptions=False, headers=headers or LAB)


def body(folder: Path, suite: str = "suite") -> dict[str, Any]:
    return {"suite": suite, "digest": checkpoint_digest(folder), "folder": str(folder)}


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_kept_hashed_and_a_new_one_voids_the_old(desk: Desk) -> None:
    desk.add()
    token = new_token()
    assert len(token) >= 40 and token != new_token()
    desk.auditor.meter.set_token("third", token_hash(token))
    with client(desk, Authorization=f"Bearer {token}") as http:
        assert http.get("/v1/suites").json() == ["suite"]
        replacement = new_token()
        desk.auditor.meter.set_token("third", token_hash(replacement))
        assert http.get("/v1/suites").status_code == 401
        assert http.get("/v1/suites", headers={"Authorization": f"Bearer {replacement}"}).status_code == 200
    stored = sqlite3.connect(desk.folder / "meter.sqlite").execute("SELECT token FROM accounts").fetchall()
    assert (token_hash(replacement),) in stored
    for path in desk.folder.rglob("*"):
        if path.is_file():
            assert replacement.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic dG9rZW4=", "Bearer token of lab2", "bearer\ttoken", "Bearer \xff\xfe"]
)
def test_without_a_token_nothing_is_said(desk: Desk, base: Path, header: str | None) -> None:
    desk.add()
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    http = TestClient(application(desk.auditor), raise_server_exceptions=False, headers=headers)  # type: ignore[arg-type]
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
    assert desk.auditor.meter.charges() == []
    assert list((desk.folder / "intake").iterdir()) == []


# --- what each endpoint says ------------------------------------------------------------------------------------------


def test_from_submission_to_attestation(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    http = client(desk)
    digest = checkpoint_digest(base)
    assert http.get(f"/v1/suites/suite/models/{digest}").status_code == 404
    first = http.post("/v1/submissions", json=body(base))
    assert first.status_code == 202 and set(first.json()) == {"submission", "due"}
    assert http.post("/v1/submissions", json=body(base)).json() == first.json()
    assert http.get(f"/v1/suites/suite/models/{digest}").json() == first.json()
    where = f"/v1/submissions/{first.json()['submission']}"
    desk.settled()
    for _ in range(3):
        early = http.get(where)
        assert (early.status_code, early.json()) == (202, first.json())
        assert http.get(f"{where}/attestation").status_code == 404
    desk.clock.now = first.json()["due"]
    answer = http.get(where)
    assert (answer.status_code, answer.json()) == (200, {"verdict": "pass"})
    assert client(desk, **OTHER).get(where).status_code == 404, "another account's"
    status = http.get("/v1/suites/suite").json()
    assert (status["submissions_used"], status["passes_given"], status["takes"]) == (1, 1, "folder")
    certified = http.get("/v1/suites/suite/certificate").json()
    assert "every model that ever passed" in certified["sentence"] and certified["answers_given"] == 1

    envelope = http.get(f"{where}/attestation").json()
    key = desk.auditor.storage.public_key
    assert verify_envelope(json.dumps(envelope), [key])["subject"][0]["digest"]["sha256"] == digest
    file = tmp_path / "attestation.json"
    file.write_text(json.dumps(envelope))
    said = verify_attestation(file, key.text(), base)["predicate"]
    assert said["passed"] == {"candour": {"true_mean_at_least": 0.02}} and said["disclosure"]["bits"]["in_all"] <= 3
    with pytest.raises(AttestationError, match="is not the model"):
        verify_attestation(file, key.text(), variant(base, tmp_path, 1))
    with pytest.raises(AttestationError):
        verify_attestation(file, SigningKey.from_seed(bytes(32), "test").verify_key.text())


def test_what_failed_is_not_attested_and_the_refusal_does_not_depend_on_when(desk: Desk, base: Path) -> None:
    desk.add(bars=NEVER)
    http = client(desk)
    receipt = http.post("/v1/submissions", json=body(base)).json()
    where = f"/v1/submissions/{receipt['submission']}"
    early = http.get(f"{where}/attestation")
    desk.settled()
    settled = http.get(f"{where}/attestation")
    desk.clock.now = receipt["due"]
    late = http.get(f"{where}/attestation")
    assert http.get(where).json() == {"verdict": "fail"}
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
def test_what_cannot_be_is_refused_in_one_sentence(desk: Desk, method: str, path: str, code: int) -> None:
    desk.add()
    reply = client(desk).request(method, path)
    assert reply.status_code == code
    assert set(reply.json()) == {"reason"} and str(desk.folder) not in reply.text


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
def test_malformed_submissions_are_refused_without_charge(desk: Desk, content: bytes) -> None:
    desk.add()
    for path in ("/v1/submissions", "/v1/witness", "/v1/checkpoint"):
        reply = client(desk).post(path, content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code in (400, 422) or (path == "/v1/checkpoint" and content == b"null"), (path, reply.text)
        assert set(reply.json()) == {"reason"} and len(reply.json()["reason"]) <= 500
    assert desk.auditor.meter.charges() == []


def test_no_reply_tells_a_path_or_what_is_sealed(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    http = client(desk)
    lab = SigningKey.from_seed(bytes(32), "lab")
    ledgers = [Ledger(tmp_path / f"{i}.jsonl") for i in range(2)]
    for number, ledger in enumerate(ledgers):
        ledger.record("note", {"n": number})
    told = [http.post("/v1/submissions", json=body(base)).text]
    desk.settled()
    desk.clock.now += 100
    told += [http.get(path).text for path in ("/openapi.json", "/v1/suites", "/v1/suites/suite", "/v1/suites/suite/certificate")]
    told += [http.get(f"/v1/submissions/1{end}").text for end in ("", "/attestation")]
    told.append(http.post("/v1/submissions", json={**body(base), "folder": str(desk.folder)}).text)
    broken = variant(base, tmp_path, 5)
    (broken / "model.safetensors").write_bytes(b"short")
    told.append(http.post("/v1/submissions", json=body(broken)).text)
    for ledger in ledgers:  # a split view
        sighting = {"key": lab.verify_key.text(), "checkpoint": ledger.checkpoint(lab)}
        told.append(http.post("/v1/witness", json=sighting).text)
        ledger.close()
    assert "split view" in told[-1]
    told.append(http.post("/v1/checkpoint", json={}).text)
    for text in told:
        for secret in (str(desk.folder), "trap 7?", "Traceback", "sealed.jsonl/", "intake"):
            assert secret not in text, text


# --- how much may be sent ---------------------------------------------------------------------------------------------


def test_large_and_unmeasured_bodies_are_refused(desk: Desk) -> None:
    desk.add()
    http = client(desk)
    assert http.post("/v1/submissions", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert http.post("/v1/submissions", content=iter([b"{}"])).status_code == 413
    for length in ("-1", "1e3", "\u00b2", "9" * 21, "0" * 20 + "99999"):
        headers = {"Content-Length": length.encode("latin-1")}
        assert http.post("/v1/submissions", content=b"{}", headers=headers).status_code == 413  # type: ignore[arg-type]


def test_a_host_header_that_is_no_host_fails_nothing(desk: Desk) -> None:
    desk.add()
    for host in ("[", "[::1", "a b", "\u00ff", ""):
        reply = client(desk).get("/v1/suites", headers={b"Host": host.encode("latin-1")})
        assert reply.status_code in (200, 400)


def _raw(address: str, request: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(request)
        wire.shutdown(socket.SHUT_WR)
        found = b""
        while chunk := wire.recv(65536):
            found += chunk
    return found


@pytest.fixture
def uploading(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path / "keep", Clock(), takes_folders=False)
    found.add()
    yield found
    found.auditor.close()


def test_an_upload_that_is_cut_off_leaves_nothing(uploading: Desk) -> None:
    head = f"PUT /v1/models/{'0' * 64}/config.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token of lab\r\n"
    with served(uploading.auditor) as address:
        _raw(address, f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        _raw(address, f"{head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode())
        _raw(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        _raw(address, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n")
        end = time.monotonic() + 5
        while any((uploading.folder / "intake").rglob("*.json")) or any((uploading.folder / "intake").rglob(".writing-*")):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert httpx.get(f"{address}/v1/suites", headers=LAB, trust_env=False).json() == ["suite"]


def test_uploads_are_bounded_in_names_sizes_and_number(uploading: Desk, base: Path) -> None:
    http, other = client(uploading), "1" * 64
    uploading.auditor.intake.max_model_bytes = 1000
    for name in ("evil.py", "pytorch_model.bin", ".hidden.safetensors", "key", "a" * 130 + ".safetensors", "%00.safetensors"):
        assert http.put(f"/v1/models/{other}/{name}", content=b"x").status_code in (400, 422), name
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 1001).status_code == 400
    assert http.put(f"/v1/models/{other}/a.safetensors", content=iter([b"x" * 600] * 2)).status_code == 400
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 600).status_code == 204
    assert http.put(f"/v1/models/{other}/a.safetensors", content=b"x" * 900).status_code == 204, "the same file again replaces it"
    assert http.put(f"/v1/models/{other}/b.safetensors", content=b"x" * 101).status_code == 400
    for i in range(9):
        assert http.put(f"/v1/models/{i}{'2' * 63}/a.safetensors", content=b"x").status_code == 204
    assert len(list((uploading.folder / "intake").iterdir())) == 4
    many = "3" * 64
    assert {http.put(f"/v1/models/{many}/f{i}.safetensors").status_code for i in range(512)} == {204}
    assert http.put(f"/v1/models/{many}/g.safetensors").status_code == 400


def test_one_account_cannot_finish_what_another_uploads(uploading: Desk, base: Path) -> None:
    digest = checkpoint_digest(base)
    for path in content_files(base):
        assert client(uploading).put(f"/v1/models/{digest}/{path.name}", content=path.read_bytes()).status_code == 204
    submission = {"suite": "suite", "digest": digest}
    assert client(uploading, **OTHER).post("/v1/submissions", json=submission).status_code == 400
    assert client(uploading).post("/v1/submissions", json={**submission, "folder": str(base)}).status_code == 404
    assert client(uploading).post("/v1/submissions", json=submission).status_code == 202


# --- through the lab's own client -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [True, False])
def test_end_to_end_with_the_labs_own_client(base: Path, tmp_path: Path, folders: bool) -> None:
    storage = Storage.create(tmp_path / "keep", "real", 1.5)
    storage.meter.set_token("lab", token_hash("token"))
    storage.add("suite", terms(sealed=str(sealed_file(tmp_path / "sealed.jsonl", 60))))
    with Auditor(storage, takes_folders=folders) as auditor, served(auditor) as address:
        door = Door(address, "token", "suite")
        start = time.time()
        assert door.submit_and_wait(base, checkpoint_digest(base)) == Reply(verdict="pass")
        assert time.time() - start >= 1.5
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
        assert {p.name for p in (tmp_path / "keep" / "intake").iterdir()} == set()
        door.close()


def test_a_newer_checkpoint_shows_a_rollback_and_closes_the_auditor(desk: Desk, base: Path) -> None:
    desk.add()
    http = client(desk)
    early = http.post("/v1/checkpoint", json={}).json()
    desk.ask(base)
    shown = http.post("/v1/checkpoint", json={"checkpoint": early["checkpoint"]})
    assert shown.status_code == 200 and read_checkpoint(shown.json()["checkpoint"], VerifyKey.parse(shown.json()["key"])).size > 2
    assert http.post("/v1/checkpoint", json={"checkpoint": "garbled"}).status_code == 409
    forged = early["checkpoint"].split("\n\n")[0] + f"\n\n— test {'A' * 91}=\n"
    assert http.post("/v1/checkpoint", json={"checkpoint": forged}).status_code == 409
    assert desk.auditor.meter.closed_reason is None, "what this auditor did not sign shows nothing"
    longer = desk.folder.parent / "longer.jsonl"
    ledger = Ledger(longer)
    for n in range(50):
        ledger.record("note", {"n": n})
    newer = ledger.checkpoint(desk.auditor.storage.key)  # signed with its own key, as before a rollback
    ledger.close()
    told = http.post("/v1/checkpoint", json={"checkpoint": newer})
    assert told.status_code == 409 and "does not continue" in told.json()["reason"]
    assert http.post("/v1/submissions", json=body(base)).status_code == 503
    assert http.get("/v1/suites/suite/certificate").json()["closed"] is not None
    desk.auditor.close()
    again = Desk(desk.folder, desk.clock)
    assert client(again).post("/v1/submissions", json=body(base)).status_code == 503, "for good"
    with pytest.raises(WitnessError):
        again.auditor.checkpoint(newer)
    again.auditor.close()


# --- many at once -----------------------------------------------------------------------------------------------------


def _at_once(auditor: Auditor, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    ready = threading.Barrier(len(bodies))

    def one(address: str, given: dict[str, Any]) -> httpx.Response:
        with httpx.Client(base_url=address, headers=LAB, timeout=120, trust_env=False) as http:
            ready.wait()
            return http.post("/v1/submissions", json=given)

    with served(auditor) as address, ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda given: one(address, given), bodies))


def _charged(desk: Desk) -> tuple[int, int]:
    written = [e for e in read(desk.folder / "ledger.jsonl") if e.kind == "charged"]
    return len(desk.auditor.meter.charges("suite")), len(written)


def test_200_clients_with_different_models_are_charged_what_the_meter_allows(base: Path, tmp_path: Path) -> None:
    clock = Clock()
    desk = Desk(tmp_path / "keep", clock)
    desk.add(submissions=12, passes=3, bars=NEVER)
    bodies = [body(variant(base, tmp_path, i)) for i in range(200)]
    replies = _at_once(desk.auditor, bodies)
    codes = Counter(r.status_code for r in replies)
    assert set(codes) == {202, 409}
    # Three passes are allowed: a fourth is taken in only when one of those that are out cannot have passed.
    assert codes[202] == 3 and _charged(desk) == (3, 3)
    assert len({r.json()["submission"] for r in replies if r.status_code == 202}) == 3
    assert len({r.json()["due"] for r in replies if r.status_code == 202}) == 3
    for i in range(5):
        desk.settled()
        clock.now += 1000.0
        _at_once(desk.auditor, bodies[20 * i + 3 : 20 * i + 23])
    assert _charged(desk) == (12, 12)
    status = desk.auditor.status("suite")
    assert (status.submissions_used, status.submissions_left) == (12, 0)
    desk.auditor.close()


def test_200_clients_with_one_model_are_charged_once(desk: Desk, base: Path) -> None:
    desk.add()
    replies = _at_once(desk.auditor, [body(base)] * 200)
    assert {r.status_code for r in replies} == {202} and len({r.text for r in replies}) == 1
    assert _charged(desk) == (1, 1)
    desk.settled()
    assert list((desk.folder / "intake").iterdir()) == []


def test_a_closed_auditor_says_so(desk: Desk, base: Path) -> None:
    desk.add()
    desk.auditor.meter.close_permanently("a test wanted it")
    reply = client(desk).post("/v1/submissions", json=body(base))
    assert reply.status_code == 503 and "a test wanted it" in reply.json()["reason"]
    with served(desk.auditor) as address, pytest.raises(ClosedError):
        Door(address, "token of lab", "suite").submit(base, checkpoint_digest(base))
