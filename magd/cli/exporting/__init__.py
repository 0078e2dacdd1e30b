"""`magd export`: reading boxes through the daemon and writing them as files of other formats."""
