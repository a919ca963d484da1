package sluice.client;

import sluice.chat.v1.Event;

/** One event of an answer and its number, from 1. */
public record NumberedEvent(long sequence, Event event) {}
