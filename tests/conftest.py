"""Settings of the test processes, made before JAX starts."""

import os

# The programs are tiny and many: compiling them is the cost. Optimising them less takes no check away.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_force_host_platform_device_count=8",
    ]
)
