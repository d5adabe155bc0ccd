//! See `faas::fuzzing::wire_message`.
#![no_main]

faas_fuzz::fuzz!(wire_message);
