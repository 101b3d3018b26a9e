# Language, warnings, sanitizers: the same for every target.
set(CMAKE_C_STANDARD 23) # gcc 12 calls it -std=c2x
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(RXT_SANITIZE "" CACHE STRING "value of -fsanitize=, or empty")
option(RXT_FUZZ "build the libFuzzer targets (needs clang)" OFF)
option(RXT_COVERAGE "instrument for line coverage (clang)" OFF)

# Contraction would let the compiler choose which a*b+c becomes an fma: the bits must be ours.
add_compile_options(-Wall -Wextra -Wconversion -Wvla -Wshadow -Wstrict-prototypes -Werror
                    -ffp-contract=off -fno-math-errno -fvisibility=hidden)
add_compile_definitions(_POSIX_C_SOURCE=200809L)

if(RXT_SANITIZE)
  add_compile_options(-fsanitize=${RXT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${RXT_SANITIZE})
endif()
if(RXT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
if(RXT_COVERAGE)
  add_compile_options(-fprofile-instr-generate -fcoverage-mapping)
  add_link_options(-fprofile-instr-generate)
endif()

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

# rxt_room(NAME DEPENDS...): a static library of every .c file of the room's folder. Its own folder
# is not on the include path: files are named from the root ("stm/stm.h"), so that check_includes
# sees every edge.
function(rxt_room name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARGN})
endfunction()
