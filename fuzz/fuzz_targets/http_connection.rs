//! See `faas::fuzzing::http_connection`.
#![no_main]

faas_fuzz::fuzz!(http_connection);
