"""The auditor over HTTP. The OpenAPI description at ``/openapi.json`` is the whole surface; errors carry one sentence and no internals."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.certificate import certificate
from stagezero.door.messages import Cosigned, Receipt, Refusal, Reply, Seen, Setup, Shown, Sighting, Status, Submission
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, StagezeroError, WaitError, WitnessError

log = logging.getLogger("stagezero.auditor")
MOST_BODY = 64 * 1024  # bytes of any request that is not an upload
MOST_REASON = 500
TOKEN_BYTES = 32
_DIGEST = r"^[0-9a-f]{64}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_MOST_NUMBER = 2**53
_BINARY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


def new_token() -> str:
    """A token for an account; only its hash is kept."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """What is kept of a token. A token has 256 random bits, so a plain hash cannot be turned back."""
    return hashlib.sha256(token.encode()).hexdigest()


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    meanings = {
        400: "Malformed; nothing was charged.",
        401: "The token is missing or unknown.",
        404: "There is no such thing, or it is not yours.",
        409: "Refused: the budget is spent, answers are still out, or two views of a ledger do not agree. Nothing was charged.",
        413: "Too large.",
        422: "Not the form that was expected.",
        503: "The auditor is closed or could not answer. Ask the same again: what was charged is answered, and never charged twice.",
    }
    return {code: {"model": Refusal, "description": meanings[code]} for code in (*codes, 503)}


def _plain(reason: str, folder: str) -> str:
    """One line that can be sent, without the auditor's own paths."""
    told = reason.replace(f"{folder}/", "").replace(folder, "the auditor's folder")
    return "".join(c if c.isprintable() else "?" for c in told)[:MOST_REASON]


def _refused(error: StagezeroError, folder: str) -> JSONResponse:
    reason = _plain(str(error), folder)
    match error:
        case ClosedError():
            status, refusal = 503, Refusal(reason=reason, code="closed")
        case WaitError():
            status, refusal = 409, Refusal(reason=reason, code="wait", wait=error.until)
        case BudgetSpentError():
            status, refusal = 409, Refusal(reason=reason, code="budget spent")
        case WitnessError():
            status, refusal = 409, Refusal(reason=reason, code="witness")
        case _:
            known = isinstance(error, DoorError)
            status, refusal = 404 if known else 400, Refusal(reason=reason)
    return JSONResponse(refusal.model_dump(exclude_defaults=True), status)


_bearer = HTTPBearer(auto_error=False, description="An account's token, as the auditor's operator gave it out.")


def account(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """Whose token a request carries."""
    auditor: Auditor = request.app.state.auditor
    found = auditor.meter.account_of(token_hash(given.credentials)) if given is not None else None
    if found is None:
        raise HTTPException(401, "the token is missing or unknown", {"WWW-Authenticate": "Bearer"})
    if request.client is not None:
        auditor.met(request.client.host, request.client.port)
    return found


Account = Annotated[str, Depends(account)]
Suite = Annotated[str, Path(pattern=_NAME, description="A suite's name.")]
ModelDigest = Annotated[str, Path(pattern=_DIGEST, description="A checkpoint's digest.")]
Number = Annotated[int, Path(ge=1, le=_MOST_NUMBER, description="A receipt's number.")]


def application(auditor: Auditor, embedded: bool = False) -> FastAPI:
    """The HTTP surface of an auditor; an ``embedded`` one may also be set up through it, by whoever started it."""
    app = FastAPI(title="stagezero auditor", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.auditor = auditor
    folder = str(auditor.storage.folder)

    @app.exception_handler(StagezeroError)
    def told(_: Request, error: StagezeroError) -> JSONResponse:
        return _refused(error, folder)

    @app.exception_handler(AnyHTTPException)
    def known(_: Request, error: AnyHTTPException) -> JSONResponse:
        return JSONResponse({"reason": _plain(str(error.detail), folder)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"reason": _plain(f"{where}: {first['msg']}", folder)}, 422)

    @app.middleware("http")
    async def bounded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if not request.scope["path"].startswith("/v1/models/"):
            length = request.headers.get("content-length", "0")
            if not (length.isascii() and length.isdigit() and len(length) <= 20) or int(length) > MOST_BODY:
                return JSONResponse({"reason": f"expected at most {MOST_BODY:,} bytes"}, 413)
            if "chunked" in request.headers.get("transfer-encoding", "").lower():
                return JSONResponse({"reason": "expected a request with a content-length"}, 413)
        try:
            return await call_next(request)
        except ClientDisconnect:
            return JSONResponse({"reason": "the request was cut off"}, 400)  # nobody is there to read it
        except Exception:
            # Nothing of what went wrong may cross; it is in the auditor's own log.
            log.exception("a request failed")
            return JSONResponse({"reason": "the auditor could not answer"}, 503)

    @app.get("/v1/suites", responses=_refusals(401, 413), summary="Names of the suites.")
    def suites(_: Account) -> list[str]:
        return auditor.storage.served()

    @app.get("/v1/suites/{suite}", responses=_refusals(401, 404, 413, 422), summary="A suite's terms and what is left of its budget.")
    def status(suite: Suite, _: Account) -> Status:
        return auditor.status(suite)

    @app.get("/v1/suites/{suite}/certificate", responses=_refusals(401, 404, 413, 422), summary="What a pass means, exactly.")
    def certified(suite: Suite, _: Account) -> dict[str, Any]:
        return certificate(auditor.storage, auditor.storage.suite(suite), auditor.storage.separation(), auditor.clock())

    @app.put(
        "/v1/models/{digest}/{name}",
        status_code=204,
        responses=_refusals(400, 401, 404, 413, 422),
        summary="Upload one file of a checkpoint.",
        openapi_extra=_BINARY,
    )  # fmt: skip
    async def upload(
        digest: ModelDigest, name: Annotated[str, Path(max_length=140, description="The file's name.")], request: Request, who: Account
    ) -> None:
        if auditor.takes_folders:
            raise DoorError("upload: this auditor takes folders; submit it that way.")
        await auditor.intake.upload(digest, name, who, request.stream())

    @app.post(
        "/v1/submissions",
        status_code=202,
        responses=_refusals(400, 401, 404, 409, 413, 422),
        summary="Submit a model. Charged when this is answered with a receipt; the same model again is free.",
    )
    def submit(submission: Submission, who: Account) -> Receipt:
        return auditor.submit(submission, who)

    @app.get(
        "/v1/suites/{suite}/models/{digest}", responses=_refusals(401, 404, 413, 422), summary="The receipt of a model submitted before."
    )
    def receipt(suite: Suite, digest: ModelDigest, who: Account) -> Receipt:
        return auditor.receipt(suite, digest, who)

    @app.get(
        "/v1/submissions/{number}",
        responses={**_refusals(401, 404, 413, 422), 202: {"model": Receipt, "description": "Not due yet."}},
        summary="The answer, once it is due.",
        response_model=Reply,
    )
    def reply(number: Number, who: Account) -> Reply | JSONResponse:
        found = auditor.reply(number, who)
        return found if isinstance(found, Reply) else JSONResponse(found.model_dump(), 202)

    @app.get(
        "/v1/submissions/{number}/attestation",
        responses=_refusals(401, 404, 413, 422),
        summary="A signed statement of what a model passed: in-toto in DSSE.",
    )
    def attested(number: Number, who: Account) -> dict[str, Any]:
        return auditor.attestation(number, who)

    @app.post(
        "/v1/witness", responses=_refusals(400, 401, 409, 413, 422), summary="Show the lab's checkpoint; it comes back countersigned."
    )
    async def witness(sighting: Sighting, _: Account) -> Cosigned:
        return Cosigned(checkpoint=await run_in_threadpool(auditor.see, sighting))

    @app.post(
        "/v1/checkpoint",
        responses=_refusals(400, 401, 409, 413, 422),
        summary="The auditor's checkpoint, and that it continues the one seen.",
    )
    async def checkpoint(seen: Seen, _: Account) -> Shown:
        return await run_in_threadpool(auditor.show, seen.checkpoint)

    if embedded:

        @app.post(
            "/v1/setup", responses=_refusals(400, 401, 404, 413, 422), summary="Set up the suite of the project that started this auditor."
        )
        def set_up(setup: Setup, _: Account) -> Status:
            return auditor.status(auditor.set_up(setup))

    return app
