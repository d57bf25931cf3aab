"""Which environments are those of several processes."""

import pytest

from experiments.cluster import detected

SLURM = {
  "SLURM_JOB_ID": "1",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "0",
  "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
  "environment,expected",
  [
    ({}, None),
    (SLURM, "Slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    # In an allocation, but not started by srun.
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, None),
    (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU pod"),
    ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "TPU pod"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    (
      {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
      "TPU slices",
    ),
    (KUBERNETES, None),
    (KUBERNETES | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
    # On GKE it is the TPU that says who is who.
    (KUBERNETES | {"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU pod"),
  ],
)
def test_cluster_is_detected_by_its_environment(environment, expected):
  assert detected(environment) == expected
