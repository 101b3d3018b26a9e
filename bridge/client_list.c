#include "bridge/client_impl.h"

#include <string.h>

void list_copy(const struct wire_body *b, struct client_session *out)
{
    for (uint32_t i = 0; i < b->n_sessions; i++) {
        const struct wire_info *from = &b->sessions[i];
        struct client_session *to = &out[i];
        *to = (struct client_session){.version = known(from->version),
                                      .n_turn = known(from->n_turn),
                                      .seed = known(from->seed),
                                      .created_us = known(from->created_us),
                                      .used_us = known(from->used_us),
                                      .origin_version = known(from->origin_version),
                                      .mixed_class = from->mixed_class == 1,
                                      .has_hash = from->stm_hash.n == sizeof to->stm_hash};
        if (to->has_hash)
            memcpy(to->stm_hash, from->stm_hash.p, sizeof to->stm_hash);
        link_text(to->session, sizeof to->session, from->session);
        link_text(to->origin, sizeof to->origin, from->origin);
        link_text(to->held_reason, sizeof to->held_reason, from->held_reason);
        link_text(to->state, sizeof to->state, from->state);
        link_text(to->stm_dtype, sizeof to->stm_dtype, from->stm_dtype);
    }
}
