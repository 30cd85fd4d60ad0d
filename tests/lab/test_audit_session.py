"""A campaign whose auditor another party runs: over TLS, by upload, with a token from a file."""

from __future__ import annotations

import datetime
import ipaddress
import time
from pathlib import Path

import pytest
from conftest import write_project
from conftest_auditor import serve, terms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Door
from stagezero.errors import DoorError, InputError, ProjectError
from stagezero.lab.campaign import Campaign
from stagezero.ledger import read


def self_signed(folder: Path) -> tuple[str, str]:
    """Write a self-signed certificate for this machine, and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "auditor")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.mark.first
def test_a_campaign_with_an_auditor_of_another_party(base: Path, tmp_path: Path) -> None:
    certfile, keyfile = self_signed(tmp_path)
    storage = Storage.create(tmp_path / "auditor", "elsewhere", 4.0)
    storage.add("candour", terms(bars={"privacy": 0.001}, submissions=5, passes=4))
    storage.meter.set_token("lab", token_hash("sesame"))
    (tmp_path / "token").write_text("sesame\n")
    with Auditor(storage, "separate host", takes_folders=False, clock=time.time) as auditor:
        with serve(auditor, ssl_certfile=certfile, ssl_keyfile=keyfile) as address:
            audit = f"{{address: '{address}', suite: candour, token_file: token, ca_file: cert.pem}}"
            path = write_project(tmp_path, base, name="far", audit=audit)
            for surplus in ("decay", "twins"):
                (tmp_path / "ideas" / f"{surplus}.md").unlink()
            result = Campaign(path, runs=tmp_path / "runs").run()
            assert result.stages[0].verdict in ("pass", "fail")
            door = next(e.body for e in read(result.folder / "ledger.jsonl") if e.kind == "door")
            assert door["bars"] == {"privacy": 0.001} and "separation" not in door
            with pytest.raises(DoorError, match="could not be reached"):
                Door(address, "sesame", "candour").status()  # this machine does not trust the certificate
            with pytest.raises(DoorError, match="token"):
                Door(address, "guess", "candour", Path(certfile)).status()
        assert auditor.meter.visible_counts("candour", time.time())[0] >= 1
        assert storage.separation() == "colocated", "the claim is contradicted: same user, same machine"


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ("{address: 'https://a', suite: s, token_file: none}", "audit.token_file"),
        ("{address: 'https://a', suite: s}", "audit.token_file"),
        ("{address: 'https://a', suite: s, token_file: stage0.yaml, bars: {privacy: 0.5}}", "audit.bars"),
    ],
)
def test_mistakes_in_the_audit_settings_are_reported(base: Path, tmp_path: Path, audit: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        Campaign(write_project(tmp_path, base, audit=audit), runs=tmp_path / "runs")


def test_a_token_is_not_sent_without_tls() -> None:
    with pytest.raises(InputError, match="expected https"):
        Door("http://auditor.example", "sesame", "s")
