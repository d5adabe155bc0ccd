//! See `faas::fuzzing::zygote_message`.
#![no_main]

faas_fuzz::fuzz!(zygote_message);
