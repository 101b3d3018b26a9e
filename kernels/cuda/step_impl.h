/* A lane's list of launches. An op puts its launches there; outside of a step they start when the
 * op ends (cuda_done), in a step when it ends, together: the second time as a graph, which costs
 * the host one call.
 *
 * A graph holds grids and parameters as they were. What changes between steps of one shape must not
 * be among them: it goes through arguments, written on the host at the place in the order of the
 * step that the next such step will use again, and copied to the device before the launches.
 * Pinned memory for them is a ring, so that the host may go on while a copy is under way.
 *
 * A step of many launches becomes several, so that the device does not wait for the host to put all
 * of them on the list, and the driver to read it; so does one that needs more than the list or the
 * arguments hold. It is cut between two launches or two ops. */
#ifndef RXT_CUDA_STEP_IMPL_H
#define RXT_CUDA_STEP_IMPL_H

#include "kernels/cuda/cuda_impl.h"

struct step;

/* Gives ln->step, for the limits of the lane. ENOMEM, EDEVICE. */
enum rxt_status step_create(struct cuda_lane *ln);
void step_destroy(struct cuda_lane *ln); /* of a lane that does nothing any more; NULL-safe */
size_t step_bytes(const struct cuda_lane *ln);

/* Room for the arguments of any op. */
enum rxt_status step_ready(struct cuda_lane *ln);
/* The end of an op. */
enum rxt_status step_done(struct cuda_lane *ln);
/* Starts what is on the list. An open step goes on. */
enum rxt_status step_flush(struct cuda_lane *ln);

#endif
