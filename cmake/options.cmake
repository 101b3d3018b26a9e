# Language, warnings, sanitizers: the same for every target.
set(CMAKE_C_STANDARD 23) # gcc 12 calls it -std=c2x
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(RXT_SANITIZE "" CACHE STRING "value of -fsanitize=, or empty")
set(RXT_PYTHON "${CMAKE_SOURCE_DIR}/build/venv/bin/python" CACHE FILEPATH
    "python with tools/requirements.txt in it, for the tests against other implementations")
option(RXT_CUDA "build the CUDA backend (needs nvcc)" OFF)
set(RXT_CUDA_ARCHITECTURES "90a-real;90-virtual" CACHE STRING "what nvcc compiles for")
option(RXT_FUZZ "build the libFuzzer targets (needs clang)" OFF)
option(RXT_COVERAGE "instrument for line coverage (needs clang)" OFF)

# The bits must be ours. Contraction would let the compiler choose which a*b+c becomes an fma, and
# gcc 12 drops the inner rounding of (double)(float)x where it packs two such values in a vector.
add_compile_options(
  "$<$<COMPILE_LANGUAGE:C>:-Wall;-Wextra;-Wconversion;-Wvla;-Wshadow;-Wstrict-prototypes;-Werror>"
  "$<$<COMPILE_LANGUAGE:C>:-ffp-contract=off;-fno-tree-slp-vectorize;-fno-math-errno>"
  "$<$<COMPILE_LANGUAGE:C>:-fvisibility=hidden>")
add_compile_definitions(_POSIX_C_SOURCE=200809L)

# A release parses hostile bytes too: what the compiler and the linker check for next to nothing.
add_compile_options("$<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:C>>:-fstack-protector-strong>")
add_compile_definitions("$<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:C>>:_FORTIFY_SOURCE=2>")
add_link_options(-Wl,--as-needed "$<$<CONFIG:Release>:-Wl,-z,relro,-z,now>")

if(RXT_SANITIZE)
  add_compile_definitions(RXT_SANITIZED) # a test that takes hours there may be shorter
  add_compile_options(-fsanitize=${RXT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${RXT_SANITIZE})
  if(RXT_SANITIZE MATCHES "address")
    add_compile_definitions(RXT_SANITIZE_ADDRESS) # clang has no macro for it
  endif()
endif()
if(RXT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_link_options(-fsanitize=fuzzer-no-link)
endif()
if(RXT_COVERAGE)
  add_compile_options(-fprofile-instr-generate -fcoverage-mapping)
  add_link_options(-fprofile-instr-generate)
endif()
if(RXT_CUDA)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "RXT_CUDA is on, but nvcc is neither in PATH nor named by CUDACXX")
  endif()
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(CMAKE_CUDA_ARCHITECTURES ${RXT_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_SOURCE_DIR}/cmake/keep_report.sh
      ${CMAKE_CUDA_COMPILER_LAUNCHER})
  # A bundle (tools/gpu_bundle.sh) has bin/ and lib/. The old kind of rpath holds for the libraries
  # that libraries need, too.
  set(CMAKE_BUILD_RPATH "$ORIGIN/../lib")
  add_link_options(-Wl,--disable-new-dtags)
endif()

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

# rxt_cuda_kernel(TARGET FILE): one object target a .cu file. The compiler's report of registers,
# stack and spills is kept for tools/check_kernels. Nothing is contracted: which a*b+c is an fma is
# written in the source, as on the CPU.
function(rxt_cuda_kernel target file)
  add_library(${target} OBJECT ${file})
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Xptxas=-v -fmad=false -Werror=all-warnings
    -Xcompiler=-Wall,-Wextra,-Werror,-fno-exceptions,-fvisibility=hidden)
endfunction()

# Every build holds the includes against the table of CONTRIBUTING.md; it takes 10 ms.
add_custom_target(check_includes ALL COMMAND ${CMAKE_SOURCE_DIR}/tools/check_includes VERBATIM)

# rxt_room(NAME DEPENDS...): a static library of every .c file of the room's folder. Its own folder
# is not on the include path: files are named from the root ("stm/stm.h"), so that check_includes
# sees every edge.
function(rxt_room name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARGN})
endfunction()
