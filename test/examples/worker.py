"""A worker in Python, to be copied as a template. README.md says how to run it;
worker.go and worker.mjs are the same worker in Go and JavaScript."""

import asyncio
import hashlib
import hmac
import json
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path

import nats
from nats.errors import TimeoutError as FetchTimeout
from nats.js.api import AckPolicy, ConsumerConfig

# The server remembers under this name which events the worker has acknowledged.
# Give each worker its own name; processes that share the name share the events.
DURABLE = "example-python"

MAX_ATTEMPTS = 10  # with the delays below, 17 minutes
HANDLER_TIMEOUT = 600  # progress reports must not hide a handler that hangs
FETCH_WAIT = 5  # at most so long does an idle worker take to stop

ACK_WAIT = int(os.environ.get("ACK_WAIT_MS") or 30_000) / 1000  # the server delivers an event again after so long without a sign of life
FIRST_RETRY = int(os.environ.get("RETRY_MS") or 1_000) / 1000  # delay before the second attempt; it doubles with each attempt
FOLDER = Path(os.environ.get("WORKER_DIR") or DURABLE)  # one file per job with its last status, one with its output
# During a rotation, both secrets: the stream has events signed with either.
SECRETS = [secret for secret in re.split("[,\n]", os.environ.get("SYNC_WEBHOOK_SECRET", "")) if secret]

# A status replaces only one of a lower rank: what is final stays.
RANK = {"PENDING": 1, "PROCESSING": 2, "COMPLETED": 3, "FAILED": 3, "REJECTED": 3, "CANCELED": 3, "TIMED_OUT": 3}


def log(line):
    print(line, file=sys.stderr, flush=True)


def authentic(header, data):
    """Reports whether the provider signed the data: the header is
    "t=<Unix time>,v1=<hex>", and v1 is the HMAC-SHA256 of "<t>.<data>". The age
    of the signature is not checked again: the bridge did so when the event came,
    and since then the event may have waited for days."""
    fields = [field.strip().partition("=") for field in header.split(",")]
    t = next((value for name, _, value in fields if name == "t"), "")
    signatures = [value.encode() for name, _, value in fields if name == "v1"]
    for secret in SECRETS:
        expected = hmac.new(secret.encode(), f"{t}.".encode() + data, hashlib.sha256).hexdigest().encode()
        if any(hmac.compare_digest(expected, signature) for signature in signatures):
            return True
    return False


def handle(job):
    """The work: put yours here. This one downloads what a completed job made. If
    the process dies before the status is stored, handle runs again for the same
    event: doing it twice must be as good as once."""
    if job["status"] != "COMPLETED":
        return
    with urllib.request.urlopen(job["outputUrl"], timeout=HANDLER_TIMEOUT) as response:
        replace(FOLDER / f"{job['id']}.output", response.read())


def replace(path, content):
    """Writes a file that a crash leaves either old or new."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def once(subject, header, data):
    """Verifies an event and handles it, unless it is old news."""
    # Everything below is read from the signed data: nobody signs the headers. A bad
    # signature is tried again like any failure, because the usual cause is a secret
    # that this worker does not have yet.
    if not authentic(header, data):
        raise ValueError("the signature does not match")
    job = json.loads(data)
    if not (isinstance(job.get("id"), str) and re.fullmatch("[A-Za-z0-9_-]{1,128}", job["id"]) and job.get("status") in RANK):
        log(f"{subject} is nothing for this worker: {data!r}")
        return
    status_file = FOLDER / f"{job['id']}.status"
    last = status_file.read_text() if status_file.exists() else ""
    if RANK[job["status"]] <= RANK.get(last, 0):
        log(f"job {job['id']} is {last} already: {job['status']} changes nothing")
        return  # a repeat, or older than what is known
    handle(job)
    # With several processes, use a database, and check and store the status in one
    # transaction: two of them can have events of one job at the same time.
    replace(status_file, job["status"].encode())


async def report_progress(m):
    """While the handler works, the server must not give the event to another process."""
    while True:
        await asyncio.sleep(ACK_WAIT / 3)
        await m.in_progress()


async def process(m):
    """Handles an event and acknowledges it after that, never before. An event
    whose handler fails, or whose worker dies, is delivered again."""
    sequence, attempt = m.metadata.sequence.stream, m.metadata.num_delivered
    if attempt > MAX_ATTEMPTS:
        # The event stays in the stream, for a person to look at.
        log(f"event {sequence}: given up after {MAX_ATTEMPTS} attempts; see it with: nats stream get JOBS {sequence}")
        await m.term()
        return
    progress = asyncio.create_task(report_progress(m))
    try:
        # In a thread, so that progress is reported meanwhile.
        work = asyncio.to_thread(once, m.subject, (m.headers or {}).get("Sync-Signature", ""), m.data)
        await asyncio.wait_for(work, HANDLER_TIMEOUT)
    except Exception as problem:
        progress.cancel()
        delay = FIRST_RETRY * 2 ** (attempt - 1)
        log(f"event {sequence}, attempt {attempt}: {problem!r}; again in {delay} s")
        await m.nak(delay=delay)
    else:
        progress.cancel()
        await m.ack_sync(timeout=5)  # waits for the server to confirm


async def main():
    if not SECRETS:
        raise SystemExit("SYNC_WEBHOOK_SECRET is not set")
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    log("connecting")
    nc = await nats.connect(
        servers=(os.environ.get("NATS_URL") or "nats://127.0.0.1:4222").split(","),
        user=os.environ.get("NATS_USER") or None,
        password=os.environ.get("NATS_PASSWORD") or None,
        max_reconnect_attempts=-1,  # for ever: the bridge may start later, or restart
    )
    stopping = asyncio.Event()

    def stop():
        log("stopping after the present event")
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    js = nc.jetstream()
    # No max_deliver: the server would drop the event without telling the worker.
    config = ConsumerConfig(durable_name=DURABLE, filter_subject="job.>", ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT)
    while not stopping.is_set():
        try:
            await js.add_consumer("JOBS", config)  # creates the consumer if it does not exist
            consumer = await js.pull_subscribe_bind(durable=DURABLE, stream="JOBS")
            log(f"waiting for events as {DURABLE}")
            # One event after the other. For more at once, run more processes: an event
            # that waits in a local buffer loses its ack_wait there.
            while not stopping.is_set():
                try:
                    (m,) = await consumer.fetch(1, timeout=FETCH_WAIT)
                except FetchTimeout:
                    await consumer.consumer_info()  # no event came, or the consumer does not exist any more
                else:
                    await process(m)
        except Exception as problem:
            log(f"trying again in a second: {problem!r}")
            await asyncio.sleep(1)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
