package sluice.client;

import sluice.task.v1.Task;

/** One event of a task and its number, from 1: the task as it was then. */
public record NumberedTask(long sequence, Task task) {}
