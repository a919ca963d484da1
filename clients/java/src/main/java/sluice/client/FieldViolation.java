package sluice.client;

/** One field of a request that breaks a rule: its path, e.g. {@code spec.messages[0].role}, and what is wrong. */
public record FieldViolation(String field, String description) {}
