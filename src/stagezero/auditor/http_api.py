"""The auditor's HTTP interface.

The OpenAPI description at ``/openapi.json`` covers all of it. An error response contains one
sentence and nothing of the auditor's internals.
"""

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
from stagezero.door.messages import (
    AuditorCheckpoint,
    CheckpointRequest,
    CosignedCheckpoint,
    LabCheckpoint,
    Receipt,
    Refusal,
    Reply,
    Setup,
    Status,
    Submission,
)
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, StagezeroError, WaitError, WitnessError

log = logging.getLogger("stagezero.auditor")
MAX_BODY_BYTES = 64 * 1024
"""The limit of any request that is not an upload."""
MAX_REASON_CHARS = 500
TOKEN_BYTES = 32
_MAX_SUBMISSION_NUMBER = 2**53
_MAX_FILE_NAME_CHARS = 140
_MAX_CONTENT_LENGTH_DIGITS = 20
_DIGEST = r"^[0-9a-f]{64}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_BINARY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}


def new_token() -> str:
    """Return a new account token. The auditor stores only its hash."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """Return the stored hash of a token.

    A token has 256 random bits, so a plain hash cannot be inverted.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error responses, and of 503."""
    meanings = {
        400: "Malformed; nothing was charged.",
        401: "The token is missing or unknown.",
        404: "It does not exist, or belongs to another account.",
        409: "Refused: the budget is spent, answers are pending, or two views of a ledger do not agree. Nothing was charged.",
        413: "Too large.",
        422: "The request does not have the expected form.",
        503: "The auditor is closed or could not answer. Retry the same request: a charge is answered, and never made twice.",
    }
    return {code: {"model": Refusal, "description": meanings[code]} for code in (*codes, 503)}


def _public_reason(reason: str, folder: str) -> str:
    """Return an error message as one printable line without the auditor's paths."""
    without_paths = reason.replace(f"{folder}/", "").replace(folder, "the auditor's folder")
    return "".join(c if c.isprintable() else "?" for c in without_paths)[:MAX_REASON_CHARS]


def _refusal_response(error: StagezeroError, folder: str) -> JSONResponse:
    reason = _public_reason(str(error), folder)
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
            status, refusal = 404 if isinstance(error, DoorError) else 400, Refusal(reason=reason)
    return JSONResponse(refusal.model_dump(exclude_defaults=True), status)


_bearer = HTTPBearer(auto_error=False, description="The token of an account, issued by the auditor's operator.")


def account(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """Return the account whose token a request carries.

    Raises:
        HTTPException: 401, the token is missing or unknown.
    """
    auditor: Auditor = request.app.state.auditor
    name = auditor.meter.account_of(token_hash(credentials.credentials)) if credentials is not None else None
    if name is None:
        raise HTTPException(401, "the token is missing or unknown", {"WWW-Authenticate": "Bearer"})
    if request.client is not None:
        auditor.observe_peer(request.client.host, request.client.port)
    return name


Account = Annotated[str, Depends(account)]
SuiteName = Annotated[str, Path(pattern=_NAME, description="A suite's name.")]
ModelDigest = Annotated[str, Path(pattern=_DIGEST, description="A checkpoint's digest.")]
SubmissionNumber = Annotated[int, Path(ge=1, le=_MAX_SUBMISSION_NUMBER, description="A receipt's number.")]
FileName = Annotated[str, Path(max_length=_MAX_FILE_NAME_CHARS, description="The file's name.")]


def application(auditor: Auditor, embedded: bool = False) -> FastAPI:
    """Return the HTTP application of an auditor.

    Args:
        auditor: the auditor.
        embedded: let the project that started this auditor set up its suite over HTTP.
    """
    app = FastAPI(title="stagezero auditor", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.auditor = auditor
    folder = str(auditor.storage.folder)

    @app.exception_handler(StagezeroError)
    def handle_stagezero_error(_: Request, error: StagezeroError) -> JSONResponse:
        return _refusal_response(error, folder)

    @app.exception_handler(AnyHTTPException)
    def handle_http_error(_: Request, error: AnyHTTPException) -> JSONResponse:
        return JSONResponse({"reason": _public_reason(str(error.detail), folder)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def handle_invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"reason": _public_reason(f"{field}: {first['msg']}", folder)}, 422)

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if not request.scope["path"].startswith("/v1/models/"):
            length = request.headers.get("content-length", "0")
            is_number = length.isascii() and length.isdigit() and len(length) <= _MAX_CONTENT_LENGTH_DIGITS
            if not is_number or int(length) > MAX_BODY_BYTES:
                return JSONResponse({"reason": f"expected at most {MAX_BODY_BYTES:,} bytes"}, 413)
            if "chunked" in request.headers.get("transfer-encoding", "").lower():
                return JSONResponse({"reason": "expected a request with a content-length"}, 413)
        try:
            return await call_next(request)
        except ClientDisconnect:
            # The client is gone, so no one reads this response.
            return JSONResponse({"reason": "the request was cut off"}, 400)
        except Exception:
            # The details must not be sent; they are in the auditor's own log.
            log.exception("a request failed")
            return JSONResponse({"reason": "the auditor could not answer"}, 503)

    @app.get("/v1/suites", responses=_refusals(401, 413), summary="List the names of the suites.")
    def suites(_: Account) -> list[str]:
        return auditor.storage.served_suites()

    @app.get(
        "/v1/suites/{suite}", responses=_refusals(401, 404, 413, 422), summary="Return a suite's terms and what is left of its budget."
    )
    def status(suite: SuiteName, _: Account) -> Status:
        return auditor.status(suite)

    @app.get(
        "/v1/suites/{suite}/certificate", responses=_refusals(401, 404, 413, 422), summary="Return the certificate: what a pass means."
    )
    def certified(suite: SuiteName, _: Account) -> dict[str, Any]:
        return certificate(auditor.storage, auditor.storage.suite(suite), auditor.storage.separation(), auditor.clock())

    @app.put(
        "/v1/models/{digest}/{name}",
        status_code=204,
        responses=_refusals(400, 401, 404, 413, 422),
        summary="Upload one file of a checkpoint.",
        openapi_extra=_BINARY,
    )
    async def upload(digest: ModelDigest, name: FileName, request: Request, account: Account) -> None:
        if auditor.takes_folders:
            raise DoorError("upload: this auditor takes folders; submit it that way.")
        await auditor.intake.upload(digest, name, account, request.stream())

    @app.post(
        "/v1/submissions",
        status_code=202,
        responses=_refusals(400, 401, 404, 409, 413, 422),
        summary="Submit a model and return its receipt. The receipt confirms the charge; the same model again is free.",
    )
    def submit(submission: Submission, account: Account) -> Receipt:
        return auditor.submit(submission, account)

    @app.get(
        "/v1/suites/{suite}/models/{digest}",
        responses=_refusals(401, 404, 413, 422),
        summary="Return the receipt of a model that was submitted before.",
    )
    def receipt(suite: SuiteName, digest: ModelDigest, account: Account) -> Receipt:
        return auditor.receipt(suite, digest, account)

    @app.get(
        "/v1/submissions/{number}",
        responses={**_refusals(401, 404, 413, 422), 202: {"model": Receipt, "description": "Not due yet."}},
        summary="Return the answer, once it is due.",
        response_model=Reply,
    )
    def reply(number: SubmissionNumber, account: Account) -> Reply | JSONResponse:
        answer = auditor.reply(number, account)
        return answer if isinstance(answer, Reply) else JSONResponse(answer.model_dump(), 202)

    @app.get(
        "/v1/submissions/{number}/attestation",
        responses=_refusals(401, 404, 413, 422),
        summary="Return the signed statement of what a model passed (in-toto in DSSE).",
    )
    def attested(number: SubmissionNumber, account: Account) -> dict[str, Any]:
        return auditor.attestation(number, account)

    @app.post(
        "/v1/witness", responses=_refusals(400, 401, 409, 413, 422), summary="Store the lab's checkpoint and return it countersigned."
    )
    async def witness(message: LabCheckpoint, _: Account) -> CosignedCheckpoint:
        return CosignedCheckpoint(checkpoint=await run_in_threadpool(auditor.countersign, message))

    @app.post(
        "/v1/checkpoint",
        responses=_refusals(400, 401, 409, 413, 422),
        summary="Return the auditor's checkpoint, with a proof that it extends the one in the request.",
    )
    async def checkpoint(message: CheckpointRequest, _: Account) -> AuditorCheckpoint:
        return await run_in_threadpool(auditor.checkpoint, message.checkpoint)

    if embedded:

        @app.post(
            "/v1/setup", responses=_refusals(400, 401, 404, 413, 422), summary="Set up the suite of the project that started this auditor."
        )
        def set_up(setup: Setup, _: Account) -> Status:
            return auditor.status(auditor.set_up(setup))

    return app
