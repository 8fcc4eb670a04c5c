"""What gotrace serve sends on: the waits of each target, some seconds at a time, to Pyroscope, to OpenTelemetry or into a folder."""
