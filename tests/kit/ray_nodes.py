"""A Ray cluster on the loopback, as a process of its own.

``python -m tests.kit.ray_nodes HOST...``, an address for each node, says the cluster's; it ends the
last node at the line ``kill``, and all of it when there are no more lines.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

PATIENCE_S = 120.0


def main(hosts: list[str]) -> None:
    cluster = Cluster()
    nodes = [
        cluster.add_node(
            node_ip_address=host,
            num_cpus=1,
            resources={"engine": 1},
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            wait=False,
        )
        for host in hosts
    ]
    cluster.wait_for_nodes(PATIENCE_S)
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes[-1], allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
