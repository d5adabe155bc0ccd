//! See `faas::fuzzing::worker_intake`.
#![no_main]

faas_fuzz::fuzz!(worker_intake);
