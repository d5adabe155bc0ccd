//! See `faas::fuzzing::engine_response`.
#![no_main]

faas_fuzz::fuzz!(engine_response);
