/** The only place that runs system programs. */
