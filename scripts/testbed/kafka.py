"""A real Kafka as a child: one node that is broker and controller (KRaft), with a state folder that outlives it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from scripts.testbed import jars
from scripts.testbed.errors import BinaryError
from scripts.testbed.processes import Child, ChildFailedError, accepts, free_port

JAVA_OLDEST: Final = 17
JAVA_PACKAGE: Final = "openjdk-17-jre-headless"
START_LIMIT_SECONDS: Final = 120.0
# A small heap, and a quick start rather than fast code; warnings, and when it is ready.
JAVA_OPTIONS: Final = (
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
CLUSTER_ID: Final = "Zmx1aWRvcy1lZGdlLTAwMA"
READY: Final = "Kafka Server started"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaTls:
    """Two more listeners, where clients have to show a certificate; at one of them they sign in by SCRAM besides.

    Attributes:
        certificate: PEM file with the broker's key and chain.
        roots: PEM file with those whom it believes of its clients.
        users: the only principals that may do anything, such as `User:CN=relay.edge-1`; all may where there are none.
    """

    certificate: Path
    roots: Path
    users: tuple[str, ...] = ()


class Kafka:
    """Kafka on 127.0.0.1, stopped at the end of the `with` block. Topics come into being when they are used.

    Args:
        directory: State and log; made when absent, kept at the end (whoever made it removes it).
        tls: A listener for clients with certificates, beside the open one.
        settings: More for its server.properties.

    Raises:
        BinaryError: There is no Java 17, or its jars cannot be had.
        ChildFailedError: It does not come up.
    """

    def __init__(
        self, directory: Path, *, tls: KafkaTls | None = None, settings: Mapping[str, str | int] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._java = [java(os.environ), *JAVA_OPTIONS, "-cp", f"{jars.ensure()}/*"]
        ports = self._port, self._tls_port, self._scram_port, _ = tuple(free_port() for _ in range(4))
        self._properties = directory / "server.properties"
        lines = _properties(directory, ports=ports, tls=tls) | dict(settings or {})
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        if not (directory / "data" / "meta.properties").exists():
            self._format()
        self._start()

    @property
    def address(self) -> str:
        """`127.0.0.1:<port>`, open to all."""
        return f"127.0.0.1:{self._port}"

    @property
    def tls_address(self) -> str:
        """`127.0.0.1:<port>`, with certificates on both sides."""
        return f"127.0.0.1:{self._tls_port}"

    @property
    def scram_address(self) -> str:
        """`127.0.0.1:<port>`, with certificates on both sides, and a user of this cluster."""
        return f"127.0.0.1:{self._scram_port}"

    @property
    def pid(self) -> int:
        """The process id of the present Kafka."""
        return self._child.pid

    def kill(self) -> None:
        """SIGKILL: what the kernel has of its log files is still there."""
        self._child.kill()

    def stop(self) -> None:
        """Ends it in order."""
        self._child.stop(timeout=20)

    def restart(self) -> None:
        """Starts it again on the same ports and state, after stopping it if it still runs."""
        self.stop()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _format(self) -> None:
        storage = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", str(self._properties)]
        with Child(name="kafka-format", command=[*self._java, *storage], directory=self._directory) as child:
            if child.wait(limit=START_LIMIT_SECONDS) != 0:
                raise ChildFailedError(f"Kafka's storage cannot be formatted:\n{child.tail()}")

    def _start(self) -> None:
        command = [*self._java, "kafka.Kafka", str(self._properties)]
        self._child = Child(name="kafka", command=command, directory=self._directory)
        try:
            self._child.wait_until(
                lambda: accepts(self._port) and READY in self._child.tail(), what=READY, limit=START_LIMIT_SECONDS
            )
        except BaseException:
            self._child.kill()
            raise


def java(environment: Mapping[str, str]) -> str:
    """The `java` of JAVA_HOME, else of PATH.

    Raises:
        BinaryError: There is none, or it is too old.
    """
    home = environment.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin") if home else environment.get("PATH"))
    if program is None:
        raise BinaryError(f"Kafka needs Java {JAVA_OLDEST}; on Debian: apt-get install {JAVA_PACKAGE}")
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, timeout=60)
    stated = re.search(r'version "(\d+)', done.stderr)
    if stated is None or int(stated[1]) < JAVA_OLDEST:
        raise BinaryError(f"{program} is not Java {JAVA_OLDEST} or newer; on Debian: apt-get install {JAVA_PACKAGE}")
    return program


def _properties(directory: Path, *, ports: tuple[int, ...], tls: KafkaTls | None) -> dict[str, str | int | Path]:
    plain, secured, scram, controller = ports
    listeners = [f"PLAINTEXT://127.0.0.1:{plain}"]
    if tls:
        listeners += [f"SSL://127.0.0.1:{secured}", f"SASL_SSL://127.0.0.1:{scram}"]
    found: dict[str, str | int | Path] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "log.dirs": directory / "data",
        "num.partitions": 3,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        # After a SIGKILL the controller waits for the end of the session of the life before.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # Groups of one member start at once, and a killed member is missed soon.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # Indexes are made as large as they may get: what is there for seconds needs no more.
        "log.index.size.max.bytes": 1 << 20,
        "log.cleaner.dedupe.buffer.size": 8 << 20,
    }
    if tls is not None:
        found |= {
            "ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": tls.certificate,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": tls.roots,
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.sasl_ssl.ssl.client.auth": "required",
        }
        if tls.users:
            found |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": ";".join(["User:ANONYMOUS", *tls.users]),
            }
    return found
