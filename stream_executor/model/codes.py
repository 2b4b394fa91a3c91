"""The closed vocabulary of outcomes: statuses, codes, and what each code means.

One table feeds results, audit events, metric labels, documentation and
``wasm-executor explain``. Strings here never change and are never reused; a new
code is a new release. Nothing here decides which code a request gets.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """How a request ended; the same five words in results, audit and metrics."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    QUARANTINED = "QUARANTINED"


class Code(StrEnum):
    """Why a request did not succeed; stable strings, null on success."""

    INVALID_REQUEST = "invalid_request"
    INVALID_WASM = "invalid_wasm"
    MODULE_TOO_LARGE = "module_too_large"
    MODULE_NOT_FOUND = "module_not_found"
    COMPILE_LIMIT = "compile_limit"
    FUNCTION_NOT_FOUND = "function_not_found"
    BAD_ARGUMENTS = "bad_arguments"
    UNKNOWN_IMPORT = "unknown_import"
    FUEL_EXHAUSTED = "fuel_exhausted"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory_limit"
    STACK_OVERFLOW = "stack_overflow"
    OUTPUT_LIMIT = "output_limit"
    TRAP = "trap"
    GUEST_EXIT = "guest_exit"
    SANDBOX_CRASHED = "sandbox_crashed"
    NOT_AFTER_PASSED = "not_after_passed"
    AUTH_MISSING = "auth_missing"
    AUTH_MALFORMED = "auth_malformed"
    AUTH_BAD_SIGNATURE = "auth_bad_signature"
    AUTH_UNKNOWN_KEY = "auth_unknown_key"
    AUTH_EXPIRED = "auth_expired"
    AUTH_NOT_YET_VALID = "auth_not_yet_valid"
    AUTH_WRONG_AUDIENCE = "auth_wrong_audience"
    AUTH_WRONG_BINDING = "auth_wrong_binding"
    AUTH_REPLAYED = "auth_replayed"
    AUTH_REVOKED = "auth_revoked"
    ACCESS_DENIED = "access_denied"
    DENIED_BY_POLICY = "denied_by_policy"
    RATE_LIMITED = "rate_limited"
    QUARANTINED = "quarantined"
    INTERNAL = "internal"


class CodeEntry(NamedTuple):
    """One row of the table: what a code means and what its receiver can do."""

    status: Status
    meaning: str
    remedy: str


CODES: dict[Code, CodeEntry] = {
    Code.INVALID_REQUEST: CodeEntry(
        Status.REJECTED,
        "The record's value is not a valid ExecutionRequest.",
        "Compare the value with schemas/ExecutionRequest.v1.avsc or the JSON form in "
        "docs/wire-format.md; unknown and repeated fields are refused.",
    ),
    Code.INVALID_WASM: CodeEntry(
        Status.FAILED,
        "The module is not a WebAssembly binary that the engine accepts.",
        "Run `wasm-executor invoke` on the file locally; text format, components and "
        "disabled proposals are not accepted.",
    ),
    Code.MODULE_TOO_LARGE: CodeEntry(
        Status.REJECTED,
        "The module is larger than the limit for its way in.",
        "Publish it with `wasm-executor module publish`; inline modules end at "
        "640 KiB.",
    ),
    Code.MODULE_NOT_FOUND: CodeEntry(
        Status.REJECTED,
        "No published, unrevoked module has this name, version or digest.",
        "List what is published with `wasm-executor module list`.",
    ),
    Code.COMPILE_LIMIT: CodeEntry(
        Status.FAILED,
        "Compiling the module took more time or memory than is allowed.",
        "Split very large functions; the limits protect every other tenant.",
    ),
    Code.FUNCTION_NOT_FOUND: CodeEntry(
        Status.FAILED,
        "The module does not export a function of this name.",
        "See the exports with `wasm-executor module show` and name one with "
        "`--function`; a bytes module takes `--input`, and only a WASI command needs "
        "neither.",
    ),
    Code.BAD_ARGUMENTS: CodeEntry(
        Status.FAILED,
        "The arguments do not fit the function's signature.",
        "Give one typed value per parameter, for example `--arg i32:2`.",
    ),
    Code.UNKNOWN_IMPORT: CodeEntry(
        Status.FAILED,
        "The module imports something that the sandbox does not offer.",
        "Only WASI preview 1 is offered, and only to `wasi` invocations; build for "
        "wasm32-wasip1 or without imports.",
    ),
    Code.FUEL_EXHAUSTED: CodeEntry(
        Status.FAILED,
        "The guest used all of its fuel.",
        "Do less work, or ask an Administrator to grant this module more fuel.",
    ),
    Code.TIMEOUT: CodeEntry(
        Status.FAILED,
        "The guest ran longer than its deadline and was stopped.",
        "Do less work, or raise TIMEOUT_SECONDS; fuel is then a lower bound.",
    ),
    Code.MEMORY_LIMIT: CodeEntry(
        Status.FAILED,
        "The guest needed more linear memory or table space than it may have.",
        "Lower the module's minimum memory or raise MAX_MEMORY_BYTES.",
    ),
    Code.STACK_OVERFLOW: CodeEntry(
        Status.FAILED,
        "The guest's call stack was exhausted.",
        "Bound the recursion; MAX_STACK_BYTES is engine-wide.",
    ),
    Code.OUTPUT_LIMIT: CodeEntry(
        Status.FAILED,
        "The result would be larger than MAX_RESULT_BYTES.",
        "Return less, or raise MAX_RESULT_BYTES together with the topics' limits.",
    ),
    Code.TRAP: CodeEntry(
        Status.FAILED,
        "The guest trapped; error.trap names the kind.",
        "Debug the guest with `wasm-executor invoke`, which runs the same sandbox.",
    ),
    Code.GUEST_EXIT: CodeEntry(
        Status.FAILED,
        "The WASI command exited with a code other than 0.",
        "Read exit_code and stderr in the result.",
    ),
    Code.SANDBOX_CRASHED: CodeEntry(
        Status.FAILED,
        "The sandbox process died while it ran this request, twice.",
        "Keep the module and report it; no other request was affected.",
    ),
    Code.NOT_AFTER_PASSED: CodeEntry(
        Status.EXPIRED,
        "The request's own not_after had passed when a worker admitted it.",
        "Allow more time or scale out; nothing was executed.",
    ),
    Code.AUTH_MISSING: CodeEntry(
        Status.REJECTED,
        "The record has no `authorization: Bearer` header.",
        "Sign requests with the SDK or `wasm-executor token issue`.",
    ),
    Code.AUTH_MALFORMED: CodeEntry(
        Status.REJECTED,
        "The token is not a well-formed JWT of this profile.",
        "Inspect it with `wasm-executor token inspect`; see docs/wire-format.md.",
    ),
    Code.AUTH_BAD_SIGNATURE: CodeEntry(
        Status.REJECTED,
        "The token's signature does not verify under the key it names.",
        "Sign with the current secret or key; after a rotation fetch it anew.",
    ),
    Code.AUTH_UNKNOWN_KEY: CodeEntry(
        Status.REJECTED,
        "No configured key matches the token's kid and algorithm.",
        "Publish the key in the JWKS, or use a key that is configured.",
    ),
    Code.AUTH_EXPIRED: CodeEntry(
        Status.REJECTED,
        "The token had expired, or was appended too long after its iat.",
        "Sign each request just before sending it; the SDK does.",
    ),
    Code.AUTH_NOT_YET_VALID: CodeEntry(
        Status.REJECTED,
        "The token's iat or nbf lies in the future of the topic's clock.",
        "Set the signer's clock; 30 s of difference are tolerated.",
    ),
    Code.AUTH_WRONG_AUDIENCE: CodeEntry(
        Status.REJECTED,
        "The token's aud or iss is not the one its key may speak for.",
        "Use the audience that `wasm-executor status` prints.",
    ),
    Code.AUTH_WRONG_BINDING: CodeEntry(
        Status.REJECTED,
        "The token was signed for another topic, partition or body.",
        "Sign exactly the bytes you send, for the partition you send them to.",
    ),
    Code.AUTH_REPLAYED: CodeEntry(
        Status.REJECTED,
        "A token with this jti was already spent on this partition.",
        "Use a fresh jti for every request; a retry needs a new token.",
    ),
    Code.AUTH_REVOKED: CodeEntry(
        Status.REJECTED,
        "The subject, issuer or key is on the deny-list.",
        "Talk to the operators of this deployment.",
    ),
    Code.ACCESS_DENIED: CodeEntry(
        Status.REJECTED,
        "The token's role may not execute, or exceeds its key's ceiling.",
        "Use role Agent, or a key whose ceiling is higher.",
    ),
    Code.DENIED_BY_POLICY: CodeEntry(
        Status.REJECTED,
        "The policy does not allow this subject this module or function.",
        "Ask the operators to extend the policy.",
    ),
    Code.RATE_LIMITED: CodeEntry(
        Status.REJECTED,
        "The lane's replay budget is full, so the request cannot be proven fresh.",
        "Send slower or use more partitions.",
    ),
    Code.QUARANTINED: CodeEntry(
        Status.QUARANTINED,
        "Workers died repeatedly while this request was in flight.",
        "Read `wasm-executor request show`: it will not be tried again. Run its module "
        "by itself (`wasm-executor invoke`); revoke what is hostile (`wasm-executor "
        "module revoke`), mend the rest and submit anew.",
    ),
    Code.INTERNAL: CodeEntry(
        Status.FAILED,
        "The executor failed; the request was tried once more and failed again.",
        "Report it with the log lines of this offset.",
    ),
}


class TrapKind(StrEnum):
    """The kinds of trap, by the engine's trap code; ``unknown`` catches new ones."""

    UNREACHABLE = "unreachable"
    INTEGER_DIVIDE_BY_ZERO = "integer_divide_by_zero"
    INTEGER_OVERFLOW = "integer_overflow"
    BAD_CONVERSION = "bad_conversion_to_integer"
    MEMORY_OUT_OF_BOUNDS = "memory_out_of_bounds"
    TABLE_OUT_OF_BOUNDS = "table_out_of_bounds"
    INDIRECT_CALL_TO_NULL = "indirect_call_to_null"
    BAD_SIGNATURE = "bad_signature"
    UNCAUGHT_EXCEPTION = "uncaught_exception"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """Who a token's subject is; capitalised as in the user's manual."""

    AGENT = "Agent"
    ADMINISTRATOR = "Administrator"
    AUDITOR = "Auditor"
