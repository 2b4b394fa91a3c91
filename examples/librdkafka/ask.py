"""Ask for one execution through librdkafka, without the SDK; prints the result.

    ask.py BOOTSTRAP_SERVERS REQUEST_FILE

The token comes from `wasm-executor token issue`, which reads the credentials that
EXECUTOR_CREDENTIALS names; programs under examples/signing make it without us.
"""

import json
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

REQUESTS, RESULTS, PARTITION = "wasm.requests", "wasm.results", 0


def main() -> None:
    """Note where results end, send, wait for the result of our own offset."""
    servers, request_file = sys.argv[1:]
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "ask",  # never joined: the partition is assigned by hand
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    results = TopicPartition(RESULTS, PARTITION)
    _, end = consumer.get_watermark_offsets(results, timeout=10)
    consumer.assign([TopicPartition(RESULTS, PARTITION, end)])

    offset = send(servers, Path(request_file))
    while True:
        message = consumer.poll(30)
        if message is None:
            sys.exit("no result within 30 s")
        if message.error():
            sys.exit(str(message.error()))
        if answers(message.value(), offset):
            break
    print(message.value().decode())
    consumer.close()


def send(servers: str, file: Path) -> int:
    """Sign and produce the file's exact bytes; give the offset that they got."""
    issue = ["token", "issue", "--partition", str(PARTITION), "--body", str(file)]
    token = subprocess.run(
        ["wasm-executor", *issue],  # noqa: S607 - the one on PATH is meant
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    offsets: list[int] = []

    def delivered(error: object, message: object) -> None:
        if error is not None:
            sys.exit(str(error))
        offsets.append(message.offset())

    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
    producer.produce(
        REQUESTS,
        value=file.read_bytes(),
        partition=PARTITION,
        headers={"authorization": f"Bearer {token}"},
        on_delivery=delivered,
    )
    producer.flush(10)
    return offsets[0]


def answers(value: bytes, offset: int) -> bool:
    """Tell whether a result (JSON) covers the request at this offset."""
    source = json.loads(value)["source"]
    return source["offset"] <= offset < source["offset"] + source.get("count", 1)


if __name__ == "__main__":
    main()
