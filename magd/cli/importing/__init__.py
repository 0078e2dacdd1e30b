"""`magd import`: reading volumes of other formats and writing them through the daemon."""
